"""The rows that a run's settings name, looked up before anything is loaded; imports neither TRL nor torch."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from omnirl_core.data import DataError, PromptFormat
from omnirl_core.data.sources import find_sources
from omnirl_core.shapes import GROUPS, TASKS
from omnirl_core.shapes.drawing import SPLITS, drawing_fault
from omnirl_core.type_checks import nearest, nearest_file
from omnirl_core.types import Settings

Fault = tuple[str | None, str]
"""(the setting, or None where the message names its own file, what is wrong)."""

_SHAPES_KEYS = ("task", "train", "test", "seed")


def data_file_faults(values: Mapping[str, object]) -> Iterator[Fault]:
    """`file_faults` of the rows only, for a check that needs neither rewards nor a model."""
    yield from shapes_faults(values.get("draw_shapes"))
    for name in ("dataset_name", "eval_dataset_name"):
        yield from data_faults(name, values)
    yield from template_faults(values.get("templates"))


def image_root_faults(root: object) -> Iterator[Fault]:
    """The folder of the images has to be there."""
    if isinstance(root, str) and not os.path.isdir(os.path.expanduser(root)):
        yield "image_root", f"image_root: no folder {root}{nearest_file(root)}"


def shapes_faults(shapes: object) -> Iterator[Fault]:
    if not isinstance(shapes, dict):
        return
    for key in [key for key in shapes if key not in _SHAPES_KEYS]:
        yield "draw_shapes", f"draw_shapes: unknown key {key!r}{nearest(key, _SHAPES_KEYS)}"
    for key in ("train", "test", "seed"):
        value = shapes.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            yield "draw_shapes", f"draw_shapes: {key} {value!r} is not a whole number from 0 on"
    names = shapes.get("task")
    for task in names if isinstance(names, list) else [names]:
        if task not in TASKS and task not in GROUPS:
            yield "draw_shapes", f"draw_shapes: task {task!r} is not known{nearest(task, [*GROUPS, *TASKS])}"


def data_faults(name: str, values: Settings) -> Iterator[Fault]:
    path = values.get(name)
    if not isinstance(path, str):
        return
    shapes = values.get("draw_shapes")
    if isinstance(shapes, dict) and SPLITS[name] in shapes and not Path(path).exists():
        if fault := drawing_fault(path):
            yield name, f"{name}: {fault}"
        return  # drawn where it is missing
    try:
        find_sources(path, values.get("image_root"))
    except DataError as error:
        hint = "" if os.path.exists(path) else nearest_file(path)
        for message in str(error).splitlines():
            yield name, f"{name}: {message}{hint}"


def template_faults(templates: object) -> Iterator[Fault]:
    if not isinstance(templates, dict):
        return
    for task, template in templates.items():
        try:
            PromptFormat({task: template})
        except (ValueError, TypeError, AttributeError) as error:
            yield "templates", f"templates: {error}"
