"""Completions that are already there, of any model or service, matched to the rows that they answer."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omnirl_core.boxes import Size, resized_size
from omnirl_core.data.images import image_size
from omnirl_core.data.record import DataError, Problems
from omnirl_core.text import completion_text
from omnirl_tools.evaluation.generate import Generation
from omnirl_tools.evaluation.generations import generation_of
from omnirl_tools.evaluation.lines import by_row

Line = dict[str, Any]
Resize = Callable[[Size], Size]


def ready_generations(
    path: str | Path, rows: Sequence[Mapping[str, object]], resize: Resize | None = None
) -> list[Generation]:
    """Return the completion of each row, from a JSON or JSON-lines file of objects with a `completion`.

    Lines that say their `row_id` may stand in any order, and there may be more of them than rows; lines without
    are taken in the order of the rows. Sizes of the images are read from their files where the lines do
    not tell them; `resize` gives the size at which the policy saw an image. DataError names what does not fit.
    """
    lines = _matched(Path(path), _read(Path(path)), rows)
    return [_with_sizes(generation_of(line), row, resize) for line, row in zip(lines, rows, strict=True)]


def qwen_resize(processor: object) -> Resize | None:
    """Return how this processor sizes images, None where it is not of Qwen's family."""
    images: Any = getattr(processor, "image_processor", None)
    size: Any = getattr(images, "size", None)
    if images is None or not hasattr(images, "merge_size") or not getattr(size, "longest_edge", None):
        return None
    factor = images.patch_size * images.merge_size
    return lambda shown: resized_size(shown, factor, size.shortest_edge, size.longest_edge)


def _read(path: Path) -> list[Line]:
    text = path.read_text(encoding="utf-8")
    whole = _as_list(text)
    problems, lines = Problems(), []
    for number, item in whole if whole is not None else _as_lines(text, path):
        if not isinstance(item, dict) or not isinstance(item.get("completion"), str | list):
            problems.add(f"{path}:{number}: no object with a 'completion': {item!r:.80}")
        else:
            lines.append(item | {"completion": completion_text(item["completion"])})
    if problems.count:
        raise DataError(f'{problems}\na line of completions is {{"row_id": ..., "completion": "..."}}')
    return lines


def _as_list(text: str) -> list[tuple[int, Any]] | None:
    """A JSON list and the places in it, None where the text is not one."""
    if not text.lstrip().startswith("["):
        return None
    return list(enumerate(json.loads(text), start=1))


def _as_lines(text: str, path: Path) -> list[tuple[int, Any]]:
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                found.append((number, json.loads(line)))
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON: {error}") from None
    return found


def _matched(path: Path, lines: list[Line], rows: Sequence[Mapping[str, Any]]) -> list[Line]:
    if not all("row_id" in line for line in lines):
        if len(lines) != len(rows):
            raise DataError(
                f"{path}: {len(lines)} completions for {len(rows)} rows; give each line the row_id that it answers"
            )
        return lines
    exact = by_row(lines)
    times = Counter(line["row_id"] for line in lines)
    alone = {line["row_id"]: line for line in lines if times[line["row_id"]] == 1}
    keys = by_row(rows)
    ids = Counter(row.get("row_id") for row in rows)
    problems, found = Problems(), []
    for key, row in keys.items():
        name = row.get("row_id")
        line = exact.get(key) or (alone.get(name) if ids[name] == 1 else None)
        if line is None:
            said = f"{times[name]} completions, and nothing tells which" if times[name] else "no completion"
            problems.add(f"{name}: {said} in {path}")
        else:
            found.append(line)
    if problems.count:
        raise DataError(str(problems))
    return found


def _with_sizes(generation: Generation, row: Mapping[str, Any], resize: Resize | None) -> Generation:
    """The generation with the sizes of its row's images, as `generate` would have told them."""
    images = row.get("images") or []
    sizes = generation.image_sizes
    if len(sizes) != len(images):
        sizes = tuple(image_size(image, row.get("row_id")) for image in images)
    resized = generation.resized_sizes
    if resized is None or len(resized) != len(images):
        resized = tuple(map(resize, sizes)) if resize else None if images else ()
    return replace(generation, image_sizes=sizes, resized_sizes=resized)
