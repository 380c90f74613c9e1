"""What a tutorial notebook has to be, whatever it teaches; `make notebooks` runs them."""

import ast
import os
import re
import socket
import subprocess
from functools import cache
from pathlib import Path

import nbformat
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 1_000_000
MOST_SECONDS = 150  # as the index says them; no test measures a time
ABSOLUTE = re.compile(r"(?<![\w.:/<)])/(?:[\w.+-]+/)+[\w.+-]+|\b[A-Z]:\\\\\w")
INDEX_ROW = re.compile(  # alt text, thumbnail, where it leads, where the title leads, seconds
    r"^\| \[!\[(.+?)\]\(thumbnails/(\w+)\.png\)\]\((\w+)\.ipynb\) "
    r"\| \[\*\*.+?\*\*\]\((\w+)\.ipynb\): .+\. \| (\d+|not measured yet) \|$",
    re.MULTILINE,
)
IMAGE_TAG = re.compile(r"<img\b[^>]*>", re.IGNORECASE)

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@cache
def read(path: Path):
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tree(cell) -> ast.Module:
    """The cell's syntax; lines for IPython (`%`, `!`) are none of Python's."""
    return ast.parse(re.sub(r"^\s*[%!].*$", "pass", cell.source, flags=re.MULTILINE))


def outputs(path: Path) -> list:
    return [output for cell in code_cells(path) for output in cell.outputs]


def texts(output) -> list[str]:
    """What an output says in words."""
    if output.output_type == "stream":
        return [output.text]
    return ["".join(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")]


@every_notebook
def test_size(path):
    cells = read(path).cells
    assert 15 <= len(cells) <= 25
    long = {n: length for n, cell in enumerate(cells)
            if cell.cell_type == "code" and (length := len(cell.source.splitlines())) > 15}  # fmt: skip
    assert not long, "cells of more than 15 lines"
    assert all(len(line) <= 110 for cell in code_cells(path) for line in cell.source.splitlines())
    assert path.stat().st_size < MOST_BYTES


@every_notebook
def test_it_opens_with_what_to_expect(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    for word in (r"\bwill see\b", r"\bminutes?\b", r"\bneeds?\b"):
        assert re.search(word, first.source, re.IGNORECASE), word


@every_notebook
def test_it_was_run_from_top_to_bottom(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for output in outputs(path) if output.output_type == "error"]
    assert not [output.text for output in outputs(path) if output.get("name") == "stderr"]
    for cell in cells:
        if "show(" in cell.source or "print(" in cell.source:
            assert cell.outputs or "def " in cell.source, cell.source


@every_notebook
def test_it_ends_with_asserts_and_something_to_try(path):
    last_code = code_cells(path)[-1]
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree(last_code)))
    last = read(path).cells[-1]
    assert last.cell_type == "markdown"
    assert "Change this and rerun" in last.source


@every_notebook
def test_it_imports_the_package_and_redefines_none_of_it(path):
    imported, made = set(), set()
    for cell in code_cells(path):
        for node in ast.walk(tree(cell)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("omnirl_core", "omnirl_tools")):
                imported |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                made.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                made.add(node.id)
    assert imported
    assert not made & imported, "names of the package that the notebook gives to something else"
    functions = {node.name for cell in code_cells(path) for node in ast.walk(tree(cell))
                 if isinstance(node, ast.FunctionDef | ast.ClassDef)}  # fmt: skip
    assert not functions & package_names(), "functions that the package has"


@cache
def package_names() -> frozenset[str]:
    """Every public function and class at the top of a module."""
    return frozenset(
        node.name
        for package in ("omnirl_core", "omnirl_tools")
        for file in (ROOT / package).rglob("*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    )


@every_notebook
def test_one_cell_switches_to_a_real_checkpoint(path):
    chosen = [
        cell.source
        for cell in code_cells(path)
        for node in tree(cell).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "MODEL"
    ]
    assert len(chosen) == 1
    [shipped] = re.findall(r"= (tiny_policy|tiny_reader)\(\)", chosen[0])
    assert re.search(r"Qwen/Qwen2\.5-VL-\dB-Instruct", chosen[0])
    names = [node for cell in code_cells(path) for node in ast.walk(tree(cell)) if isinstance(node, ast.Name)]
    assert [node.id for node in names].count(shipped) == 1, "whatever the model is, MODEL names it"
    assert any(node.id == "MODEL" and isinstance(node.ctx, ast.Load) for node in names)


@every_notebook
def test_every_figure_has_alt_text(path):
    shown = [output for output in outputs(path) if "image/png" in output.get("data", {})]
    assert shown, "an image wherever a person would rather look than read"
    for output in shown:
        alt = output.metadata.get("image/png", {}).get("alt", "")
        assert len(alt) >= 40, f"alt text {alt!r}: use omnirl_tools.report.figures.show"
        assert output.data["text/plain"] == alt
    assert not [kind for output in outputs(path) for kind in output.get("data", {}) if kind == "image/jpeg"]
    for cell in read(path).cells:
        said = [cell.source] if cell.cell_type == "markdown" else [t for o in cell.outputs for t in texts(o)]
        for tag in (tag for text in said for tag in IMAGE_TAG.findall(text)):
            assert re.search(r"alt=[\"'][^\"']{10,}", tag), tag[:80]
        assert not re.search(r"!\[\s*\]\(", "\n".join(said))


@every_notebook
def test_it_names_no_machine(path):
    said = [text for output in outputs(path) for text in texts(output)] + [c.source for c in read(path).cells]
    names = [re.escape(name) for name in (socket.gethostname(), os.environ.get("USER", "")) if len(name) > 4]
    for text in said:
        assert not ABSOLUTE.search(text), text[:200]
        assert not [name for name in names if re.search(rf"\b{name}\b", text)], text[:200]
    assert set(read(path).metadata) == {"kernelspec", "language_info"}, "scripts/run_notebooks.py tidies it"
    assert read(path).metadata.language_info == {"name": "python"}


@every_notebook
def test_most_outputs_are_compared(path):
    ignored = [cell for cell in code_cells(path) if "nbval-ignore-output" in cell.metadata.get("tags", [])]
    assert len(ignored) <= len(code_cells(path)) / 2
    assert not [cell for cell in code_cells(path) if "NBVAL_" in cell.source], "tags do not get in a reader's way"
    assert not [c for c in code_cells(path) if {"nbval-skip", "raises-exception"} & set(c.metadata.get("tags", []))]


def test_the_index_shows_every_notebook_with_its_image_and_seconds():
    index = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    rows = INDEX_ROW.findall(index)
    assert [row[1:4] for row in rows] == [(path.stem,) * 3 for path in NOTEBOOKS]
    assert all(len(alt) >= 40 for alt, *_ in rows)
    seconds = [int(row[-1]) for row in rows if row[-1].isdecimal()]
    assert seconds
    assert max(seconds) <= MOST_SECONDS
    assert sum(seconds) <= 720, "twelve minutes for all"
    for path in NOTEBOOKS:
        tagged = [cell for cell in code_cells(path) if "thumbnail" in cell.metadata.get("tags", [])]
        assert len(tagged) == 1
        width, height = Image.open(path.parent / "thumbnails" / f"{path.stem}.png").size
        assert width == 480 or height == 320, "scripts/run_notebooks.py made it"


def test_make_test_runs_the_notebooks():
    """As make expands it: pytest with --nbval over the folder of notebooks, in `make test` and by itself."""
    for target in ("test", "notebooks"):
        planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        (command,) = [line for line in planned.splitlines() if "--nbval " in line]
        assert "bin/pytest " in command
        assert "notebooks" in command.split()
