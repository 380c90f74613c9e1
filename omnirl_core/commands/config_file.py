"""The keys of a recipe's YAML, read without importing TRL."""

from typing import Any

from omnirl_core.commands import CannotRun
from omnirl_core.config_file import ConfigError, read_config


def read_settings(path: str) -> dict[str, Any]:
    """The YAML's keys and values, those that it includes among them; CannotRun says what is wrong with the file."""
    try:
        return read_config(path)
    except ConfigError as error:
        raise CannotRun(f"{error}; give a recipe's YAML, as recipes/grpo.py takes it") from None
