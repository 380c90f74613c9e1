"""The samples of a data set in any layout: checked, under our names, and split into training and held-out ones."""

import hashlib
import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from omnirl_core.data import DataError, Record
from omnirl_core.data.columns import ColumnNames
from omnirl_core.data.record import decoded_image, image_folder
from omnirl_core.data.sources import Source, checked_rows, find_sources, raw_rows
from omnirl_core.data.tables import READERS, is_saved, tables_in
from omnirl_core.types import JsonObject, counted, nearest_file
from omnirl_tools.checks.row_check import RowCheck
from omnirl_tools.commands import CannotRun
from omnirl_tools.init.columns import Columns, UnreadableColumns, find_columns

SEEN = 300
"""Rows from which columns are told."""
FEWEST = 8
MOST_HELD_OUT = 200
DROPPED = ("chat",)
"""Columns that stay behind: what we need of them is in the sample."""
HELD_OUT_NAMES = ("test", "val", "valid", "validation", "dev", "eval")


@dataclass
class Data:
    """Samples to train on and held-out ones, and what was seen on the way."""

    given: str
    train: list[Record]
    held_out: list[Record]
    columns: Columns
    image_root: str | None
    """Of relative image paths, as the command runs; None where no sample has one."""
    left_out: list[str] = field(default_factory=list)
    """Why rows were left out, one a row, beginning with file:line."""
    unclear: list[str] = field(default_factory=list)

    @property
    def samples(self) -> list[Record]:
        return [*self.train, *self.held_out]

    def share(self, has: str) -> float:
        """Share of the samples with images, with several, or with options."""
        tests = {"images": lambda one: bool(one.images), "several": lambda one: len(one.images) > 1}
        is_so = tests.get(has, lambda one: one.extra.get("options") is not None)
        return sum(is_so(one) for one in self.samples) / len(self.samples)


def read_data(given: str, image_root: str | None, columns: ColumnNames | None = None) -> Data:
    """Look at a data set. CannotRun says what is wrong with it as a whole.

    Args:
        given: file, folder with one, saved data set, YAML mixture, or hub data set.
        image_root: of relative image paths; None looks for it beside the data.
        columns: our names of its columns; None finds them.
    """
    try:
        sources, others = ([one for place in part for one in find_sources(place)] for part in _places(given))
        head = _head(sources)
        found = find_columns(head, columns)
        root = image_root or _image_root(sources[0], head, found)
        data = Data(given, [], [], found, root)
        train = _samples(sources, data)
        held_out = _samples(others, data) if others else []
    except (DataError, UnreadableColumns) as error:
        raise CannotRun(f"--data {given}: {error}") from error
    if len(train) < FEWEST:
        reasons = "".join(f"\n  {reason}" for reason in data.left_out[:5])
        raise CannotRun(
            f"--data {given}: {counted(len(train), 'sample')} to train on, {FEWEST} are the fewest{reasons}"
        )
    if len(data.left_out) > len(train):
        n = len(data.left_out) + len(train)
        raise CannotRun(
            f"--data {given}: {len(data.left_out)} of {n} rows cannot be used; mend them first:\n  "
            + "\n  ".join(data.left_out[:5])
        )
    data.unclear = found.unclear
    data.train, data.held_out = (train, held_out) if held_out else _split(train, data.unclear)
    return data


def _places(given: str) -> tuple[list[str], list[str]]:
    """The files to train on, and those of held-out rows where the folder has them."""
    if not os.path.isdir(given):
        looks_local = given.endswith((*READERS, ".yaml", ".yml")) or given.startswith((".", "/", "~"))
        if not os.path.exists(given) and (looks_local or "/" not in given):
            raise CannotRun(f"--data {given}: no such file or folder{nearest_file(given)}")
        return [given], []
    if is_saved(given):
        splits = [name for name in ("train", *HELD_OUT_NAMES) if is_saved(os.path.join(given, name))]
        parts = [os.path.join(given, name) for name in splits] or [given]
        return parts[:1], parts[1:2]
    files = tables_in(given)
    train = _of_split(files, given, ("train",))
    if len(files) == 1 or _is_one(train):
        test = next(filter(None, (_of_split(files, given, (name,)) for name in HELD_OUT_NAMES)), [])
        return (train, test if _is_one(test) else test[:1]) if train else (files, [])
    what = (
        f"has {', '.join(os.path.relpath(path, given) for path in files[:5])}; give one of them"
        if files
        else (f"has no {', '.join(READERS)} file; images need a table of questions and answers beside them")
    )
    raise CannotRun(f"--data {given}: the folder {what}")


def _of_split(files: list[str], folder: str, names: tuple[str, ...]) -> list[str]:
    """The files whose names, or whose folders', begin with one of these."""
    return [
        path for path in files if any(part.lower().startswith(names) for part in Path(path).relative_to(folder).parts)
    ]


def _is_one(files: list[str]) -> bool:
    """Whether they are one table: a file, or the parts of one as hubs name them."""
    is_part = all(re.search(r"\d-of-\d", os.path.basename(path)) for path in files)
    return len(files) == 1 or (bool(files) and is_part and len({os.path.dirname(path) for path in files}) == 1)


def _head(sources: Sequence[Source]) -> list[JsonObject]:
    rows = [row for source in sources for row in islice(raw_rows(source), SEEN)]
    good = [row.value for row in rows if isinstance(row.value, dict)]
    if not good:
        fault = next((row.fault for row in rows if row.fault), None)
        raise DataError(f"no rows{f': {fault}' if fault else ''}")
    return good


def _image_root(source: Source, head: Sequence[JsonObject], columns: Columns) -> str | None:
    """The folder that most of the first images lie under: the data's, one below it, or that of absolute paths."""
    from omnirl_core.data.columns import renamed

    paths: list[str] = []
    for row in head[:50]:
        try:
            named: Any = renamed(row, columns.mapping)
        except DataError:
            continue
        value = named.get("images", named.get("image"))
        paths += [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and one]
    cache = str(image_folder())
    paths = [path for path in paths if not path.startswith(cache) and decoded_image(path) is None]
    absolute = [path for path in paths if os.path.isabs(path)]
    if absolute:
        return os.path.commonpath([os.path.dirname(path) for path in absolute])
    if not paths or source.on_hub:
        return None
    own = Path(source.image_root or os.path.dirname(source.place) or ".")
    below = sorted(path for path in own.iterdir() if path.is_dir()) if own.is_dir() else []
    roots = [own, *below, own.parent]
    return str(max(roots, key=lambda root: sum((root / path).is_file() for path in paths)))


def _samples(sources: Sequence[Source], data: Data) -> list[Record]:
    """The good rows; what is wrong with the others goes to `data.left_out`."""
    mapped = [
        replace(one, columns=data.columns.mapping or one.columns, image_root=data.image_root or one.image_root)
        for one in sources
    ]
    check = RowCheck()
    good = []
    for row in checked_rows(mapped):
        if isinstance(row, DataError):
            data.left_out.append(str(row))
        elif row.solution in (None, "", [], {}):
            data.left_out.append(f"{row.source}: no answer")
        elif faults := check.many([row])[0].faults:
            data.left_out.append(faults[0].message)
        else:
            good.append(_with_options(row, data.columns.lettered))
    return good


def _with_options(record: Record, lettered: Sequence[str]) -> Record:
    extra = {name: value for name, value in record.extra.items() if name not in DROPPED}
    if lettered:
        each = [extra.pop(name, None) for name in lettered]
        extra["options"] = [str(option) for option in each if option is not None]
    options = extra.get("options")
    if isinstance(options, str) and options.startswith(("[", "{")):
        with suppress(ValueError):
            extra["options"] = json.loads(options)
    return replace(record, extra=extra)


# -- held-out samples --------------------------------------------------------------------------------------------


def _split(samples: list[Record], unclear: list[str]) -> tuple[list[Record], list[Record]]:
    """Training and held-out samples: those of one image, or of one question, are all on the same side."""
    keys = [_images_key(record) or _question_key(record) for record in samples]
    if len(set(keys)) < 20 or Counter(keys).most_common(1)[0][1] > len(samples) // 4:
        if len(set(keys)) < len(samples):
            what = "images" if any(record.images for record in samples) else "questions"
            unclear.append(f"few {what} stand for all samples: held-out samples have some of training's")
        keys = [f"{_images_key(record)}|{_question_key(record)}" for record in samples]
    wanted = held_out_size(len(samples))
    chosen = _chosen(Counter(keys), wanted, unclear)
    if not chosen:  # so few questions that each has too many of the samples
        keys = [str(number) for number in range(len(samples))]
        chosen = _chosen(Counter(keys), wanted, unclear)
    train = [record for record, key in zip(samples, keys, strict=True) if key not in chosen]
    return train, [record for record, key in zip(samples, keys, strict=True) if key in chosen]


def _chosen(sizes: Counter[str], wanted: int, unclear: list[str]) -> set[str]:
    """Keys of about `wanted` samples; one image or question is at most a tenth of them where the others suffice."""
    order = list(sizes)
    random.Random(0).shuffle(order)
    small = [key for key in order if sizes[key] <= max(1, wanted // 10)]
    n_small = sum(sizes[key] for key in small)
    if len(small) < len(order) and 2 * n_small > 3 * wanted:
        n, n_large = sizes.total() - n_small, len(order) - len(small)
        unclear.append(f"{n:,} samples repeat the images or questions of {n_large:,}: none of them is held out")
        order = small
    chosen: set[str] = set()
    n = 0
    for key in order:
        if n < wanted and n + sizes[key] <= 1.5 * wanted + 1:
            chosen.add(key)
            n += sizes[key]
    return chosen


def held_out_size(n: int) -> int:
    """A fifth of the samples, at most MOST_HELD_OUT: of 200 a gain of a tenth is seen, of 100 it often is not.

    >>> held_out_size(50), held_out_size(800), held_out_size(100_000)
    (10, 160, 200)
    """
    return max(1, min(MOST_HELD_OUT, n // 5))


def _question_key(record: Record) -> str:
    return " ".join(record.problem.split())


def _images_key(record: Record) -> str:
    """By content, so that a copy under another name is the same image."""
    return " ".join(_digest(path) for path in record.images)


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=12)).hexdigest()


def lines_of(records: Iterable[Record], image_root: str | None) -> str:
    """JSONL of samples in our own layout, with the paths of `shown_path`."""
    return "".join(json.dumps(_line(record, image_root), ensure_ascii=False) + "\n" for record in records)


def images_inside(records: Iterable[Record], image_root: str | None) -> dict[str, str]:
    """Path in the samples -> file in the cache, of images that came inside the data; they belong beside the samples."""
    if image_root is not None:
        return {}
    paths = {path for record in records for path in record.images if Path(path).is_relative_to(image_folder())}
    return {shown_path(path, None): path for path in sorted(paths)}


def _line(record: Record, image_root: str | None) -> JsonObject:
    line: JsonObject = {"problem": record.problem, "solution": record.solution}
    paths = [shown_path(path, image_root) for path in record.images]
    if paths:
        line["image"] = paths[0] if len(paths) == 1 else paths
    if record.task is not None:
        line["task"] = record.task
    return line | {name: value for name, value in record.extra.items() if name not in line}


def shown_path(path: str, image_root: str | None) -> str:
    """Relative to `image_root` below it; of an image that came inside the data, relative to the samples' file."""
    if image_root is None and Path(path).is_relative_to(image_folder()):
        return f"images/{Path(path).name}"
    root = os.path.abspath(image_root) if image_root else None
    return os.path.relpath(path, root) if root and Path(path).is_relative_to(root) else path
