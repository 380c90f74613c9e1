"""Two evaluations of the same rows, side by side: which measures moved, for which rows, and how sure that is.

A and B are predictions.jsonl (or before.jsonl, after.jsonl), or folders that hold one. Intervals are paired
bootstrap intervals of the change; p is McNemar's exact test, for measures that are 0 or 1. With --html the rows
that changed most come first, with their images and boxes.
"""

import argparse
from pathlib import Path
from typing import Any

from omnirl_core.text import answer_text
from omnirl_core.types import nearest_file
from omnirl_tools.commands import CannotRun
from omnirl_tools.evaluation.compare import compare, extremes, table
from omnirl_tools.evaluation.lines import read_lines
from omnirl_tools.evaluation.measures import FORMAT_REWARDS, Line

FILES = ("predictions.jsonl", "after.jsonl")
SHOWN = 70


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="predictions.jsonl, or the folder of an evaluation")
    parser.add_argument("b", metavar="B", help="the other one")
    parser.add_argument("--html", metavar="FILE", help="write a page with wins and losses, images included")
    parser.add_argument("--names", nargs=2, metavar=("A", "B"), help="what to call them")
    parser.add_argument("--examples", type=int, default=3, metavar="N", help="wins and losses to print (3)")
    parser.add_argument(
        "--format_rewards", nargs="*", default=list(FORMAT_REWARDS), metavar="NAME",
        help=f"rewards that accuracy leaves out ({', '.join(FORMAT_REWARDS)})",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    first, second = find_lines(arguments.a), find_lines(arguments.b)
    names = tuple(arguments.names) if arguments.names else short_names(first, second)
    before, after = graded_lines(first), graded_lines(second)
    try:
        changes = compare(before, after, format_rewards=arguments.format_rewards)
    except ValueError as error:  # they do not hold the same rows
        raise CannotRun(str(error).removeprefix("compare: ")) from None
    print(table(changes, names=names, p_values=True))
    for title, pairs in zip(("wins", "losses"), extremes(before, after, arguments.examples), strict=True):
        if pairs:
            print(f"\nLargest {title}")
            print("\n".join(_example(old, new, names) for old, new in pairs))
    if arguments.html:
        check_page(Path(arguments.html))
        from omnirl_tools.report import write_comparison  # matplotlib takes a second

        path = write_comparison(first, second, arguments.html, names=names, format_rewards=arguments.format_rewards)
        print(f"\nLook at\n  {path}")
    return 0


def check_page(path: Path) -> None:
    """CannotRun where a page would replace a file that is none."""
    if path.is_dir() or (
        path.is_file() and not path.read_bytes()[:200].lower().lstrip().startswith(b"<!doctype html")
    ):
        raise CannotRun(f"--html {path} is there and no page; name another file")


def find_lines(place: str) -> Path:
    """The file of lines that an argument names."""
    path = Path(place)
    if path.is_file():
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    raise CannotRun(f"{place}: neither a file nor a folder with {' or '.join(FILES)}{nearest_file(place)}")


def graded_lines(path: Path) -> list[Line]:
    lines = read_lines(path)
    if not lines or not all(isinstance(line.get("rewards"), dict) and "score" in line for line in lines):
        raise CannotRun(f"{path}: no graded lines; give a predictions.jsonl of recipes/evaluate.py")
    return lines


def short_names(first: Path, second: Path) -> tuple[str, str]:
    """The file names where they differ, else those of the nearest folders that do.

    >>> short_names(Path("run/before.jsonl"), Path("run/after.jsonl"))
    ('before', 'after')
    >>> short_names(Path("base/predictions.jsonl"), Path("tuned/predictions.jsonl"))
    ('base', 'tuned')
    """
    ours, theirs = first.absolute().with_suffix("").parts, second.absolute().with_suffix("").parts
    pairs = zip(reversed(ours), reversed(theirs), strict=False)
    return next(((a, b) for a, b in pairs if a != b), ("first", "second"))


def _example(old: Line, new: Line, names: tuple[str, str]) -> str:
    """The change, the row, what it asks, and both answers, the whole completion where it has no `<answer>`."""
    width = max(map(len, names))
    answers = [
        f"{'':10}{name:<{width}}  {line['score']:.3f}  {_short(answer_text(line['completion']) or line['completion'])}"
        for name, line in zip(names, (old, new), strict=True)
    ]
    head = f"  {new['score'] - old['score']:+.3f}  {old['row_id']}  {_short(old.get('problem') or '')}"
    return "\n".join([head, *answers])


def _short(text: Any) -> str:
    """On one line, at most SHOWN characters."""
    words = " ".join(str(text).split())
    return words if len(words) <= SHOWN else words[: SHOWN - 1] + "…"
