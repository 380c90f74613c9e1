"""Write questions about drawn scenes and pages as the data a user would bring: one JSON file and a folder of PNGs."""

import io
import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from .documents import DOCUMENTS, make_document
from .tasks import GROUPS, TASKS, make_example

KNOWN = (*TASKS, *DOCUMENTS)
"""Every task that can be drawn."""


def write_dataset(
    folder: str | Path, task: str | Sequence[str], n: int, seed: int, split: str = "train", name: str | None = None
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
