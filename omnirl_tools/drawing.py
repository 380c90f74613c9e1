"""`draw_shapes` of a YAML: the rows of a demo, drawn where the files that the YAML names are not there yet.

They go into a folder that is new or was drawn before. No file that is there is ever replaced, and a name that another
file or the command line gives is the user's own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnirl_core.config import SPLITS, DataArguments
from omnirl_core.data import DataError
from omnirl_core.shapes.dataset import write_dataset, write_new
from omnirl_core.types import nearest

OWNER = "drawn_by_omnirl.txt"
"""The file that marks a folder of drawn rows."""

_ABOUT = "draw_shapes of a recipe drew the files of this folder; remove the folder to have them drawn again.\n"


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


def missing_files(data: DataArguments, splits: Sequence[str] = ("train", "test")) -> dict[str, str]:
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


def draw_missing(data: DataArguments, splits: Sequence[str] = ("train", "test")) -> None:
    """Write the rows that `draw_shapes` asks for, unless their files are there. DataError where it must not."""
    for setting, name in missing_files(data, splits).items():
        if fault := drawing_fault(name):
            raise DataError(f"{setting}: {fault}")
        write_new(Path(name).parent, {OWNER: _ABOUT.encode()})
        draw(data, setting, Path(name))


def draw(data: DataArguments, setting: str, path: Path) -> Path:
    """Write the rows of the setting's split to `path`."""
    shapes: Any = data.draw_shapes
    split = SPLITS[setting]
    return write_dataset(path.parent, shapes["task"], shapes[split], shapes.get("seed", 0), split, path.name)
