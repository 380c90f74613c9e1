"""A recipe's YAML for a command that imports no TRL: its keys, and its drawn data while the command looks at it."""

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from omnirl_core.config import SPLITS, DataArguments
from omnirl_core.data import DataError
from omnirl_core.types import JsonObject
from omnirl_core.yaml_loader import ConfigError, read_config
from omnirl_tools.commands import CannotRun, note
from omnirl_tools.drawing import draw, drawing_fault, missing_files

Data = TypeVar("Data", bound=DataArguments)


def read_settings(path: str) -> JsonObject:
    """The YAML's keys and values; CannotRun says what is wrong with the file."""
    try:
        return read_config(path)
    except ConfigError as error:
        raise CannotRun(f"{error}; give a recipe's YAML, as recipes/grpo.py takes it") from None


@contextmanager
def drawn_temporarily(data: Data) -> Iterator[Data]:
    """The settings for a check, which writes no data: files not drawn yet are drawn into a temporary folder."""
    missing = missing_files(data)
    with tempfile.TemporaryDirectory(prefix="omnirl_drawn_") as folder:
        moved: dict[str, Any] = {}
        for setting, name in missing.items():
            if fault := drawing_fault(name):
                raise DataError(f"{setting}: {fault}")
            note(f"{name} is not drawn yet; for this check it is drawn into a temporary folder")
            moved[setting] = str(draw(data, setting, Path(folder, SPLITS[setting], Path(name).name)))
        yield dataclasses.replace(data, **moved)
