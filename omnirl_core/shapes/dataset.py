"""Write questions about drawn scenes and pages as the data a user would bring: one JSON file and a folder of PNGs.

`draw_shapes` of a YAML draws the rows of a demo where the files that the YAML names are not there yet: into a folder
that is new or was drawn before. No file that is there is ever replaced, and a name that another file or the command
line gives is the user's own.
"""

import io
import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from omnirl_core.data import DataError
from omnirl_core.type_checks import nearest
from omnirl_core.yaml_loader import Given

from .documents import DOCUMENTS, make_document
from .tasks import GROUPS, TASKS, make_example

KNOWN = (*TASKS, *DOCUMENTS)
"""Every task that can be drawn."""


def write_dataset(
    folder: str | Path,
    task: str | Sequence[str],
    n: int,
    seed: int,
    split: str = "train",
    name: str | None = None,
) -> Path:
    """Write `n` rows of a task to `folder/<split>.json`, their images under `folder/<split>/`.

    No file that is there is replaced; called again with the same arguments it changes nothing.

    Args:
        folder: made if it is missing.
        task: one of `TASKS` or `DOCUMENTS`, the name of a recipe (`"mixed"`, `"documents"`, ...), or several tasks,
            taken in turn.
        n: number of rows.
        seed: rows are endless; each seed gives other rows, and the same seed the same files.
        split: `"train"` or `"test"`; no example can be in both.
        name: of the file, if not `<split>.json`; images lie in the folder of that name without its suffix.

    Returns:
        The path of the JSON file: a list of `{"problem", "solution", "task", "image"?}`, image paths relative to
        `folder`, boxes as `[x1, y1, x2, y2]` in pixels of the image.

    Raises:
        ValueError: unknown task or split.
        FileExistsError: a file of that name is there and holds something else; nothing is written then.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> rows = json.loads(write_dataset(folder, "mixed", n=7, seed=0).read_text())
    >>> rows[0]["task"], rows[0]["image"]
    ('color', 'train/0000000-0.png')
    """
    tasks = GROUPS.get(task, (task,)) if isinstance(task, str) else tuple(task)
    if unknown := sorted(set(tasks) - set(KNOWN)):
        raise ValueError(f"unknown task {unknown}; one of {', '.join(KNOWN)} or {', '.join(GROUPS)}")
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}; 'train' or 'test'")
    file = Path(name or f"{split}.json")
    files, rows = {}, []
    for index in range(n):
        task_of_row = tasks[index % len(tasks)]
        make = make_document if task_of_row in DOCUMENTS else make_example
        example = make(task_of_row, random.Random(f"{seed}/{split}/{task_of_row}/{index}"), split)
        row = {"problem": example.problem, "solution": example.solution, "task": example.task}
        paths = []
        for k, scene in enumerate(example.scenes):
            png = io.BytesIO()
            scene.draw().save(png, "PNG")
            paths.append(f"{file.stem}/{index:07d}-{k}.png")
            files[paths[-1]] = png.getvalue()
        if paths:
            row["image"] = paths[0] if len(paths) == 1 else paths
        rows.append(row)
    lines = ",\n".join(json.dumps(row) for row in rows)
    files[file.name] = f"[\n{lines}\n]\n".encode()  # last: a file that is there has all of its images
    write_new(folder, files)
    return Path(folder) / file.name


def write_new(folder: str | Path, files: Mapping[str, bytes]) -> None:
    """Write each file below `folder`, in order; one that is there with the same bytes stays as it is.

    Raises:
        FileExistsError: a file is there and holds something else. Nothing is written then.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> write_new(folder, {"a.txt": b"1"}), write_new(folder, {"a.txt": b"1"})
    (None, None)
    >>> write_new(folder, {"b.txt": b"2", "a.txt": b"other"})
    Traceback (most recent call last):
    FileExistsError: ...a.txt is there and holds something else; it is not overwritten: name another folder, ...
    """
    missing = [name for name, content in files.items() if not _is_there(Path(folder, name), content)]
    for name in missing:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        _create(path, files[name])


def _is_there(path: Path, content: bytes) -> bool:
    if not os.path.lexists(path):
        return False
    if path.is_file() and path.read_bytes() == content:
        return True
    raise FileExistsError(
        f"{path} is there and holds something else; it is not overwritten: name another folder, or remove it"
    )


def _create(path: Path, content: bytes) -> None:
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError:  # another process was faster
        _is_there(path, content)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


SPLITS = {"dataset_name": "train", "eval_dataset_name": "test"}
OWNER = "drawn_by_omnirl.txt"
"""The file that marks a folder of drawn rows."""

_ABOUT = "draw_shapes of a recipe drew the files of this folder; remove the folder to have them drawn again.\n"


class Draws(Protocol):
    """What is read of DataArguments."""

    @property
    def draw_shapes(self) -> dict | str | None: ...
    @property
    def dataset_name(self) -> str | None: ...
    @property
    def eval_dataset_name(self) -> str | None: ...


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
