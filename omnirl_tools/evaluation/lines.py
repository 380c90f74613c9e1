"""The JSON lines of a run's folder: read what a killed run left, write a file whole or not at all."""

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from omnirl_core.types import Line, Settings

logger = logging.getLogger(__name__)


def read_lines(path: str | Path) -> list[Line]:
    """Return the objects of a JSON-lines file, [] where there is no file; see `iter_lines`."""
    return [line for _, line in iter_lines(path)]


def iter_lines(path: str | Path) -> Iterator[tuple[int, Line]]:
    """Yield `(byte offset, object)` for each whole line.

    The last line of a killed run may be cut anywhere: it is left out. A broken line before the last, which a
    run leaves that was killed and resumed into the same file, is left out with a warning that names it; nothing is
    said of a file that has no whole line.
    """
    path = Path(path)
    if not path.exists():
        return
    torn: list[int] = []
    offset = number = n_whole = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = _parse(raw)
            if line is not None:
                n_whole += 1
                yield offset, line
            elif raw.strip():
                torn.append(number)
            offset += len(raw)
    for broken in torn:
        if n_whole and broken < number:
            logger.warning("%s:%d: not a JSON object, left out", path, broken)


def line_at(path: str | Path, offsets: Iterable[int]) -> Iterator[Line]:
    """Yield the objects that start at these byte offsets (of `iter_lines`), reading no other line."""
    with Path(path).open("rb") as file:
        for offset in offsets:
            file.seek(offset)
            line = _parse(file.readline())
            if line is not None:
                yield line


def write_lines(path: str | Path, lines: Iterable[dict[str, object]]) -> Path:
    """Write a JSON-lines file; who reads it while it is written sees the old one or the new one, never half.

    NaN and infinities become null: they are no JSON, and browsers refuse the whole file for one of them.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with beside.open("w", encoding="utf-8", errors="surrogatepass") as file:  # as json.loads reads it
        for line in lines:
            file.write(json.dumps(finite(line), ensure_ascii=False, allow_nan=False) + "\n")
    os.replace(beside, path)
    return path


def finite(value: object) -> Any:
    """Return the value with every number that JSON does not know replaced by None.

    >>> finite({"kl": float("nan"), "loss": 0.5, "sizes": (float("inf"), 2)})
    {'kl': None, 'loss': 0.5, 'sizes': [None, 2]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


Row = TypeVar("Row", bound=Settings)


def by_row(lines: Iterable[Row]) -> dict[Hashable, Row]:
    """Key each line by what tells its row from others; samples of one row are counted in their order.

    `row_id` alone does not: it is `file:line`, and a JSON file may stand on a single line.

    >>> list(by_row([{"row_id": "a:1", "problem": "?"}, {"row_id": "a:1", "problem": "?"}]).values())
    [{'row_id': 'a:1', 'problem': '?'}, {'row_id': 'a:1', 'problem': '?'}]
    """
    seen: Counter[Hashable] = Counter()
    keyed: dict[Hashable, Row] = {}
    for line in lines:
        row = row_key(line)
        keyed[row, seen[row]] = line
        seen[row] += 1
    return keyed


def row_key(line: Settings) -> tuple[Hashable, ...]:
    """What tells a row from others: where it stands, what it asks, and about which images."""
    images = line.get("images") or ()
    return line.get("row_id"), line.get("problem"), tuple(image for image in images if isinstance(image, str))


def stream_keys(rows: Iterable[Settings]) -> list[Hashable]:
    """What tells the random streams of rows apart: the same wherever the files lie, so that a seed is one everywhere.

    >>> stream_keys([{"problem": "?", "images": ["/a/1.png"]}, {"problem": "?", "images": ["/b/1.png"]}])
    [('?', ('1.png',), 0), ('?', ('1.png',), 1)]
    """
    seen: Counter[Hashable] = Counter()
    keys: list[Hashable] = []
    for line in rows:
        images = [image for image in line.get("images") or () if isinstance(image, str)]
        key = line.get("problem"), tuple(map(os.path.basename, images))
        keys.append((*key, seen[key]))
        seen[key] += 1
    return keys


def weighted_mean(values: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """Return the mean of the rewards that judged, None where none did; a reward without a weight counts once.

    >>> weighted_mean({"format": 1.0, "iou": 0.25, "bleu": None}, {"format": 0.5, "iou": 1.0})
    0.5
    """
    judged = {name: value for name, value in values.items() if value is not None}
    total = sum(max(weights.get(name, 1.0), 0.0) for name in judged)  # a penalty lowers the score, not its scale
    if not total:
        return None
    return sum(weights.get(name, 1.0) * value for name, value in judged.items()) / total


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except ValueError:  # cut in the middle of an object, or of a multi-byte character
        return None
    return line if isinstance(line, dict) else None
