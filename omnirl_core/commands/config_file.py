"""The keys of a recipe's YAML, read without importing TRL."""

from pathlib import Path
from typing import Any

import yaml

from omnirl_core.commands import CannotRun


def read_settings(path: str) -> dict[str, Any]:
    """The YAML's keys and values; CannotRun says what is wrong with the file."""
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise CannotRun(f"{path}: {reason}; give a recipe's YAML, as recipes/grpo.py takes it") from None
    if not isinstance(settings, dict):
        raise CannotRun(f"{path}: holds no `key: value` lines; give a recipe's YAML")
    return settings
