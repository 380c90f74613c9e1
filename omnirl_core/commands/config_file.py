"""The keys of a recipe's YAML, read without importing TRL."""

from typing import Any

from omnirl_core.commands import CannotRun
from omnirl_core.yaml_file import YamlFault, read_yaml


def read_settings(path: str) -> dict[str, Any]:
    """The YAML's keys and values; CannotRun says what is wrong with the file."""
    try:
        settings = read_yaml(path).data
    except YamlFault as fault:
        raise CannotRun(fault.at(path)) from None
    except OSError as error:
        raise CannotRun(
            f"{path}: {error.strerror}; give a recipe's YAML, as recipes/grpo.py takes it"
        ) from None
    if not isinstance(settings, dict):
        raise CannotRun(f"{path}: holds no `key: value` lines; give a recipe's YAML")
    return settings
