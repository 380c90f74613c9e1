"""How large the packages are: files, lines, the longest file, and the length of functions.

python scripts/code_size.py                  # one line a package and folder
python scripts/code_size.py --longest 10     # and the longest files and functions
"""

import argparse
import ast
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGES = ("omnirl_core", "omnirl_tools")


class Size(NamedTuple):
    """Of a folder with all below it; lines are all lines of its Python files."""

    files: int
    lines: int
    longest_file: int
    median_function: float
    longest_function: int


def functions(path: Path) -> list[tuple[str, int]]:
    """(name, lines from `def` to its end) of every function and method in a file.

    >>> dict(functions(Path(__file__)))["functions"] > 5
    True
    """
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in nodes if isinstance(node, kinds)]


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def measure(folder: Path) -> Size:
    """The size of the Python files in `folder` and below it."""
    files = sorted(folder.rglob("*.py"))
    lengths = [length for path in files for _, length in functions(path)] or [0]
    counts = [lines(path) for path in files] or [0]
    return Size(len(files), sum(counts), max(counts), median(lengths), max(lengths))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=0, metavar="N", help="also list the N longest")
    longest = parser.parse_args(argv).longest
    print(f"{'folder':<34} {'files':>5} {'lines':>6} {'longest file':>13} {'median function':>16} {'longest':>8}")
    for package in PACKAGES:
        root = ROOT / package
        for folder in [root, *sorted(path for path in root.iterdir() if any(path.rglob("*.py")))]:
            if folder.is_dir():
                size = measure(folder)
                print(
                    f"{folder.relative_to(ROOT)!s:<34} {size.files:>5} {size.lines:>6} {size.longest_file:>13} "
                    f"{size.median_function:>16.0f} {size.longest_function:>8}"
                )
    if longest:
        show_longest(longest)


def show_longest(n: int) -> None:
    """Print the `n` longest files and functions of the packages."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    for path in sorted(files, key=lines, reverse=True)[:n]:
        print(f"{lines(path):>5}  {path.relative_to(ROOT)}")
    named = [(length, f"{path.relative_to(ROOT)}:{name}") for path in files for name, length in functions(path)]
    for length, name in sorted(named, reverse=True)[:n]:
        print(f"{length:>5}  {name}")


if __name__ == "__main__":
    main()
