"""The keys of a recipe's YAML, read without importing TRL."""

from typing import Any

from omnirl_core.yaml_loader import ConfigError, read_config
from omnirl_tools.commands import CannotRun


def read_settings(path: str) -> dict[str, Any]:
    """The YAML's keys and values; CannotRun says what is wrong with the file."""
    try:
        return read_config(path)
    except ConfigError as error:
        raise CannotRun(f"{error}; give a recipe's YAML, as recipes/grpo.py takes it") from None
