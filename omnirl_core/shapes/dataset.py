"""Write questions about drawn scenes as the data a user would bring: one JSON file and a folder of PNGs."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

from .tasks import GROUPS, TASKS, make_example


def write_dataset(
    folder: str | Path, task: str | Sequence[str], n: int, seed: int, split: str = "train"
) -> Path:
    """Write `n` rows of a task to `folder/<split>.json`, their pictures under `folder/<split>/`.

    Args:
        folder: made if it is missing.
        task: one of `TASKS`, the name of a recipe (`"mixed"`, `"rec"`, ...), or several tasks, taken in turn.
        n: number of rows.
        seed: rows are endless; each seed gives other rows, and the same seed the same files.
        split: `"train"` or `"test"`; no example can be in both.

    Returns:
        The path of the JSON file: a list of `{"problem", "solution", "task", "image"?}`, image paths relative to
        `folder`, boxes as `[x1, y1, x2, y2]` in pixels of the picture.

    Raises:
        ValueError: unknown task or split.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> rows = json.loads(write_dataset(folder, "mixed", n=7, seed=0).read_text())
    >>> rows[0]["task"], rows[0]["image"]
    ('color', 'train/0000000-0.png')
    """
    tasks = GROUPS.get(task, (task,)) if isinstance(task, str) else tuple(task)
    if unknown := sorted(set(tasks) - set(TASKS)):
        raise ValueError(f"unknown task {unknown}; one of {', '.join(TASKS)} or {', '.join(GROUPS)}")
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}; 'train' or 'test'")
    folder = Path(folder)
    (folder / split).mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(n):
        task_of_row = tasks[index % len(tasks)]
        example = make_example(task_of_row, random.Random(f"{seed}/{split}/{task_of_row}/{index}"), split)
        row = {"problem": example.problem, "solution": example.solution, "task": example.task}
        paths = []
        for k, scene in enumerate(example.scenes):
            paths.append(f"{split}/{index:07d}-{k}.png")
            scene.draw().save(folder / paths[-1])
        if paths:
            row["image"] = paths[0] if len(paths) == 1 else paths
        rows.append(row)
    file = folder / f"{split}.json"
    lines = ",\n".join(json.dumps(row) for row in rows)
    file.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return file
