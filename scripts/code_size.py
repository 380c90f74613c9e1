"""How large the packages are: files, lines, the longest file, the length of functions, and `Any` in signatures.

python scripts/code_size.py                  # one line a package and folder
python scripts/code_size.py --longest 10     # and the longest files and functions
python scripts/code_size.py --any            # and each use of `Any` in the signature of a public name
"""

import argparse
import ast
from collections.abc import Iterator, Sequence
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


def says_any(annotation: ast.expr | None) -> bool:
    names = ast.walk(annotation) if annotation is not None else ()
    return any("Any" in (getattr(node, "id", None), getattr(node, "value", None)) for node in names)


def any_uses(nodes: Sequence[ast.stmt], within: str = "") -> Iterator[str]:
    """Each parameter and each return of a public function, method or class whose type contains `Any`.

    Fields of a dataclass are its parameters. Of special methods, `__init__` and `__call__` are
    public.

    >>> list(any_uses(ast.parse("def f(a: list[Any], b: int) -> Any: ...").body))
    ['f(a)', 'f ->']
    """
    for node in nodes:
        name = getattr(node, "name", "_")
        if name.startswith("_") and name not in ("__init__", "__call__"):
            continue
        if isinstance(node, ast.ClassDef):
            made_by = [*node.decorator_list, *node.bases]
            yield from any_uses(node.body, f"{within}{name}.")
            if any("dataclass" in ast.unparse(one) or "NamedTuple" in ast.unparse(one) for one in made_by):
                fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and says_any(one.annotation)]
                names = [ast.unparse(one.target) for one in fields]
                yield from (f"{within}{name}({field})" for field in names if not field.startswith("_"))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            taken = node.args
            every = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, taken.vararg, taken.kwarg]
            yield from (f"{within}{name}({one.arg})" for one in every if one and says_any(one.annotation))
            yield from [f"{within}{name} ->"] * says_any(node.returns)


def any_in_signatures() -> list[str]:
    """`file: name(parameter)` of every use of `Any` in the packages' public signatures."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [
        f"{path.relative_to(ROOT)}: {use}"
        for path in files
        for use in any_uses(ast.parse(path.read_text(encoding="utf-8")).body)
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=0, metavar="N", help="also list the N longest")
    parser.add_argument("--any", action="store_true", help="also list each `Any` in a public signature")
    arguments = parser.parse_args(argv)
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
    uses = any_in_signatures()
    print(f"{len(uses)} uses of Any in signatures of public names")
    if arguments.any:
        print(*uses, sep="\n")
    if arguments.longest:
        show_longest(arguments.longest)


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
