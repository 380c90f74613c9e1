"""`draw_shapes`: the rows of a demo, drawn where its YAML names files that are not there yet.

Drawn is only what the file that has `draw_shapes` names itself, into a folder that is new or was drawn before. No
file that is there is ever replaced, and a name that another file or the command line gives is the user's own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from omnirl_core.data import DataError
from omnirl_core.shapes.dataset import write_dataset, write_new
from omnirl_core.type_checks import nearest
from omnirl_core.yaml_loader import Given

SPLITS = {"dataset_name": "train", "eval_dataset_name": "test"}
OWNER = "drawn_by_omnirl.txt"
"""The file that marks a folder of drawn rows."""

_ABOUT = "draw_shapes of a recipe drew the files of this folder; remove the folder to have them drawn again.\n"


class Draws(Protocol):
    """What is read of DataArguments."""

    draw_shapes: dict | str | None
    dataset_name: Any
    eval_dataset_name: str | None


def only_own_names(given: Sequence[Given]) -> list[Given]:
    """The settings with the splits taken out of `draw_shapes` whose file is named elsewhere than it stands itself.

    >>> yaml = [Given("draw_shapes", {"task": "rec", "train": 9, "test": 3}, "demo.yaml:4"),
    ...         Given("dataset_name", "a/train.json", "demo.yaml:5")]
    >>> only_own_names([*yaml, Given("dataset_name", "mine/trian.json", "command line")])[0].value
    {'task': 'rec', 'test': 3}
    """
    last = {one.name: one for one in given}
    shapes = last.get("draw_shapes")
    if shapes is None or not isinstance(shapes.value, dict):
        return list(given)
    file = _file(shapes)
    others = [split for name, split in SPLITS.items() if name in last and _file(last[name]) != file]
    kept = shapes._replace(value={key: value for key, value in shapes.value.items() if key not in others})
    return [kept if one is shapes else one for one in given]


def _file(one: Given) -> str:
    return one.place.rpartition(":")[0] or one.place


def drawing_fault(name: str) -> str | None:
    """Why no rows are drawn to the missing file `name`; None where they can be."""
    path = Path(name)
    if path.suffix != ".json":
        return f"{name}: no such data file, and draw_shapes draws .json files only; fix the name"
    folder = path.parent
    if folder.is_dir() and any(folder.iterdir()) and not (folder / OWNER).is_file():
        known = [str(other) for other in sorted(folder.iterdir()) if other.suffix in (".json", ".jsonl")]
        hint = nearest(name, known) if known else ""
        return (
            f"{name}: no such data file, and draw_shapes does not draw into {folder}, which holds other files"
            f"{hint}; fix the name, remove draw_shapes, or name a new folder"
        )
    return None


def missing_files(data: Draws, splits: Sequence[str] = ("train", "test")) -> dict[str, str]:
    """{setting: file} that `draw_shapes` has to draw."""
    shapes = data.draw_shapes
    if not isinstance(shapes, dict):
        return {}
    named = {setting: getattr(data, setting) for setting, split in SPLITS.items() if split in splits}
    return {
        setting: name
        for setting, name in named.items()
        if name and SPLITS[setting] in shapes and not Path(name).exists()
    }


def draw_missing(data: Draws, splits: Sequence[str] = ("train", "test")) -> None:
    """Write the rows that `draw_shapes` asks for, unless their files are there. DataError where it must not."""
    for setting, name in missing_files(data, splits).items():
        if fault := drawing_fault(name):
            raise DataError(f"{setting}: {fault}")
        write_new(Path(name).parent, {OWNER: _ABOUT.encode()})
        draw(data, setting, Path(name))


def draw(data: Draws, setting: str, path: Path) -> Path:
    """Write the rows of the setting's split to `path`."""
    shapes: Any = data.draw_shapes
    split = SPLITS[setting]
    return write_dataset(path.parent, shapes["task"], shapes[split], shapes.get("seed", 0), split, path.name)
