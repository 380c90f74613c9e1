"""The files and names that a run's settings point at, looked up before a model is loaded.

Neither TRL nor torch is imported for a check of the data only.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from omnirl_core.config import SPLITS
from omnirl_core.data import DataError, PromptFormat
from omnirl_core.data.sources import find_sources
from omnirl_core.rewards import RewardsError, load_rewards
from omnirl_core.shapes import GROUPS, POLICIES
from omnirl_core.shapes.dataset import KNOWN
from omnirl_core.types import Settings, nearest, nearest_file
from omnirl_tools.checks.value_checks import Fault, value_faults
from omnirl_tools.drawing import drawing_fault

_SHAPES_KEYS = ("task", "train", "test", "seed")
OF_A_RUN = (
    "run.json", "metrics.jsonl", "completions.jsonl", "before.jsonl", "faults.jsonl", "training_args.bin",
    "bad_rows.txt",
)  # fmt: skip
"""Files that only a run leaves in its folder."""
MERGED = "merged"
"""Folder within that of a warm start with LoRA: the adapter and its model as one."""
WRITTEN = (".json", ".jsonl", ".safetensors", ".bin", ".jinja", ".model", ".html", ".png")


def file_faults(values: Mapping[str, object]) -> Iterator[Fault]:
    """What is wrong with the files that the settings name, and with values that fail once a model is loaded.

    Files of own reward functions are run, as in training.
    """
    yield from value_faults(values)
    yield from reward_faults(values.get("rewards"))
    yield from data_file_faults(values)
    yield from folder_faults(values)
    yield from json_file_faults(values)
    yield from model_faults(values.get("model_name_or_path"), bool(values.get("trust_remote_code")))


def reward_faults(path: object) -> Iterator[Fault]:
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


def json_file_faults(values: Mapping[str, object]) -> Iterator[Fault]:
    """Of transformers' settings that may name a JSON file, which it opens only where another setting asks for it."""
    for name in ("deepspeed", "fsdp_config", "accelerator_config"):
        path = values.get(name)
        if not isinstance(path, str) or path.lstrip().startswith("{"):
            continue
        try:
            json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            yield name, f"{name}: no file {path}{nearest_file(path)}"
        except (OSError, ValueError) as error:
            yield name, f"{name}: {path} is no JSON file that can be read: {error}"


def folder_faults(values: Mapping[str, object]) -> Iterator[Fault]:
    yield from image_root_faults(values.get("image_root"))
    output = values.get("output_dir")
    if isinstance(output, str) and (file := _file_on_the_way(output)):
        yield "output_dir", f"output_dir: {file} is a file; name a folder"
    elif isinstance(output, str) and os.path.isdir(output) and (names := _at_risk(Path(output))):
        shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
        yield (
            "output_dir",
            f"output_dir: {output} holds {shown}, and no run wrote it; a run could replace them: name a new folder",
        )


def _file_on_the_way(folder: str) -> str | None:
    """The file that stands where the folder, or one that it lies in, would be."""
    way = [Path(folder), *Path(folder).parents]
    return next((str(path) for path in way if os.path.lexists(path) and not path.is_dir()), None)


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
        if task not in KNOWN and task not in GROUPS:
            yield "draw_shapes", f"draw_shapes: task {task!r} is not known{nearest(task, [*GROUPS, *KNOWN])}"


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
        find_sources(path, values.get("image_root"), columns=values.get("columns"))
    except DataError as error:
        for message in str(error).splitlines():
            yield name, f"{name}: {message}{nearest_file(path)}"


def template_faults(templates: object) -> Iterator[Fault]:
    if not isinstance(templates, dict):
        return
    for task, template in templates.items():
        try:
            PromptFormat({task: template})
        except (ValueError, TypeError, AttributeError) as error:
            yield "templates", f"templates: {error}"


def _at_risk(folder: Path) -> list[str]:
    """Files of names that a run or its model may write, in a folder that is no run's."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if any(name in OF_A_RUN for name in names) or any(folder.glob("checkpoint-*")):
        return []
    return [name for name in names if Path(name).suffix in WRITTEN or name == "README.md"]


def _hint_for_adapter(folder: str) -> str:
    if os.path.isfile(os.path.join(folder, MERGED, "config.json")):
        return f"; it holds an adapter, which is merged into its model in {os.path.join(folder, MERGED)}"
    return "; for an adapter, give the model that it was trained on"


def model_faults(name: object, trusts_remote_code: bool = False) -> Iterator[Fault]:
    """A local folder must hold a model; a hub id can only be looked up where nothing may be downloaded."""
    if not isinstance(name, str) or name in POLICIES:
        return
    from huggingface_hub import constants, try_to_load_from_cache

    from omnirl_core.trainer.fault_tolerance.checkpoint_storage import pickled_weights

    setting = "model_name_or_path"
    if os.path.isdir(name):
        if not os.path.isfile(os.path.join(name, "config.json")):
            hint = _hint_for_adapter(name) if is_adapter(name) else ""
            yield setting, f"{setting}: {name} holds no config.json, so it is no model's folder{hint}"
        elif pickled := pickled_weights(name):
            yield setting, f"{setting}: {pickled}"
        elif (fault := _architecture_fault(name)) and not trusts_remote_code:
            yield setting, f"{setting}: {fault}"
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        yield setting, f"{setting}: no folder {name}{nearest_file(name)}"
    elif constants.HF_HUB_OFFLINE and not isinstance(try_to_load_from_cache(name, "config.json"), str):
        yield (
            setting,
            (
                f"{setting}: {name} is no folder here and not in the hub's cache, and HF_HUB_OFFLINE is set; "
                f"unset it, or give the path of a folder{nearest_file(name)}"
            ),
        )


def _architecture_fault(folder: str) -> str | None:
    """What to say of a model's folder whose architecture the installed transformers does not know."""
    import transformers

    try:
        config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{folder}/config.json cannot be read: {error}"
    known = transformers.CONFIG_MAPPING
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind in known or (kind is None and any(name in folder for name in known)):
        return None
    where = f"{folder}/config.json says model_type {kind!r}"
    return (
        f"{where}, which transformers {transformers.__version__} does not know{nearest(kind, known, only_close=True)}; "
        "install a release that has it, or take another model"
    )


def is_adapter(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, "adapter_config.json"))
