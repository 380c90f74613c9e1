"""The files and names that a run's settings point at, looked up before a model is loaded."""

import os
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache

from omnirl_core.data import DataError, PromptFormat
from omnirl_core.data.sources import find_sources
from omnirl_core.drawing import SPLITS, drawing_fault
from omnirl_core.rewards import Reward, RewardsError, load_rewards
from omnirl_core.rewards.file_function import FileFunction
from omnirl_core.shapes import GROUPS, TASKS
from omnirl_core.trainer.checkpoints import pickled_weights
from omnirl_core.values import nearest, nearest_file

Fault = tuple[str | None, str]
"""(the setting, or None where the message names its own file, what is wrong)."""

_SHAPES_KEYS = ("task", "train", "test", "seed")


def file_faults(values: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with the files that the settings name; files of own reward functions are run, as in training."""
    yield from _reward_faults(values.get("rewards"))
    yield from data_file_faults(values)
    yield from _folder_faults(values)
    yield from _model_faults(values.get("model_name_or_path"))


def data_file_faults(values: Mapping[str, Any]) -> Iterator[Fault]:
    """`file_faults` of the rows only, for a check that needs neither rewards nor a model."""
    yield from _shapes_faults(values.get("draw_shapes"))
    for name in ("dataset_name", "eval_dataset_name"):
        yield from _data_faults(name, values)
    yield from _template_faults(values.get("templates"))


def evaluation_file_faults(values: Mapping[str, Any]) -> Iterator[Fault]:
    """`file_faults` of what an evaluation reads: no training rows, but annotations and completions."""
    yield from _shapes_faults(values.get("draw_shapes"))
    if not values.get("protocol"):
        yield from _reward_faults(values.get("rewards"))
    if not values.get("annotations"):
        yield from _data_faults("eval_dataset_name", values)
    for name in ("annotations", "completions"):
        given = values.get(name)
        for path in given if isinstance(given, list) else [given]:
            if isinstance(path, str) and not os.path.isfile(path):
                yield name, f"{name}: no file {path}{nearest_file(path)}"
    yield from _template_faults(values.get("templates"))
    yield from _folder_faults(values)


def own_code(rewards: Iterable[Reward]) -> dict[str, str]:
    """Each reward function of the user's own files, `path:function`, and the file's SHA-256."""
    functions = [reward.scorer for reward in rewards if isinstance(reward.scorer, FileFunction)]
    return {
        f"{function.path}:{function.name}": sha256(function.path.read_bytes()).hexdigest()
        for function in functions
    }


def _reward_faults(path: Any) -> Iterator[Fault]:
    if not isinstance(path, str):
        return
    try:
        load_rewards(path)
    except RewardsError as error:
        yield from ((None, message) for message in error.faults)
    except FileNotFoundError:
        yield "rewards", f"rewards: no file {path}{nearest_file(path)}"
    except OSError as error:
        yield "rewards", f"rewards: {path} cannot be read ({error.strerror})"


def _shapes_faults(shapes: Any) -> Iterator[Fault]:
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


def _data_faults(name: str, values: Mapping[str, Any]) -> Iterator[Fault]:
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


def _template_faults(templates: Any) -> Iterator[Fault]:
    if not isinstance(templates, dict):
        return
    for task, template in templates.items():
        try:
            PromptFormat({task: template})
        except (ValueError, TypeError, AttributeError) as error:
            yield "templates", f"templates: {error}"


def _folder_faults(values: Mapping[str, Any]) -> Iterator[Fault]:
    root, output = values.get("image_root"), values.get("output_dir")
    if isinstance(root, str) and not os.path.isdir(os.path.expanduser(root)):
        yield "image_root", f"image_root: no folder {root}{nearest_file(root)}"
    if isinstance(output, str) and os.path.exists(output) and not os.path.isdir(output):
        yield "output_dir", f"output_dir: {output} is a file; name a folder"


def _model_faults(name: Any) -> Iterator[Fault]:
    """A local folder must hold a model; a hub id can only be looked up where nothing may be downloaded."""
    if not isinstance(name, str) or name == "tiny_policy":
        return
    setting = "model_name_or_path"
    if os.path.isdir(name):
        if not os.path.isfile(os.path.join(name, "config.json")):
            hint = "; for an adapter, give the model that it was trained on" if _is_adapter(name) else ""
            yield setting, f"{setting}: {name} holds no config.json, so it is no model's folder{hint}"
        elif pickled := pickled_weights(name):
            yield setting, f"{setting}: {pickled}"
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        yield setting, f"{setting}: no folder {name}{nearest_file(name)}"
    elif constants.HF_HUB_OFFLINE and not isinstance(try_to_load_from_cache(name, "config.json"), str):
        yield (
            setting,
            (
                f"{setting}: {name} is no folder here and not in the hub's cache, and HF_HUB_OFFLINE is set; "
                "unset it, or give the path of a folder"
            ),
        )


def _is_adapter(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, "adapter_config.json"))
