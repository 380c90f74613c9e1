"""Which lines of a run the report shows: whole groups of completions, spread evenly over the steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from omnirl_core.types import Line
from omnirl_tools.evaluation.lines import iter_lines, line_at, row_key
from omnirl_tools.report.run_file import parts

T = TypeVar("T")


@dataclass
class Group:
    """The completions of one prompt at one step: GRPO compares them, so they stay together."""

    step: int
    phase: str
    places: list[tuple[Path, int]] = field(default_factory=list)
    """File and byte offset of each line."""
    lines: list[Line] = field(default_factory=list)


def sample_groups(path: str | Path, most_completions: int) -> tuple[list[Group], int]:
    """Return groups with at most about `most_completions` lines of a `completions.jsonl`, and its line count.

    The part of the log before it, where there is one, counts too. Only places in the files are kept for what is not
    chosen, so that a long run's log needs little memory.
    """
    groups: dict[tuple, Group] = {}
    total = 0
    for part in parts(Path(path)):
        for offset, line in iter_lines(part):
            if not isinstance(line.get("step"), int) or not isinstance(line.get("completion"), str):
                continue
            phase = line.get("phase") or "train"
            key = (line["step"], phase, *row_key(line), line.get("prompt"))
            groups.setdefault(key, Group(line["step"], phase)).places.append((part, offset))
            total += 1
    if not total:
        return [], 0
    share = most_completions * len(groups) // total
    chosen = evenly(list(groups.values()), max(1, share))
    for group in chosen:
        group.lines = [line for part, offset in group.places for line in line_at(part, [offset])]
    return chosen, total


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` items, evenly spaced, the first and the last among them.

    >>> evenly("abcdefghi", 3), evenly("abc", 5)
    (['a', 'e', 'i'], ['a', 'b', 'c'])
    """
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
