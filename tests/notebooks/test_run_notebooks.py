"""scripts/run_notebooks.py on a notebook of two cells."""

import importlib.util
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "scripts" / "run_notebooks.py")
run_notebooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run_notebooks)

FIGURE = """
from matplotlib import pyplot
from omnirl_tools.report.figures import show, style
style()
figure, axes = pyplot.subplots()
axes.plot([1, 2], [1, 3])
for word in ("one", "two"):
    print(word, flush=True)
show(figure, alt="A line that rises.")
"""


def write(path: Path, *sources: str) -> Path:
    first, *others = [new_code_cell(source) for source in sources]
    first.metadata.tags = ["thumbnail"]
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title"), first, *others]), path)
    return path


def test_running_twice_gives_the_same_file_without_a_machine_in_it(tmp_path):
    path = write(tmp_path / "one.ipynb", FIGURE, "print('three')")
    run_notebooks.main([str(path)])
    once = path.read_bytes()
    run_notebooks.main([str(path)])
    assert path.read_bytes() == once

    _, figure, last = nbformat.read(path, as_version=4).cells
    assert [output.output_type for output in figure.outputs] == ["stream", "display_data"]
    assert figure.outputs[0].text == "one\ntwo\n"
    assert figure.outputs[1].data["text/plain"] == "A line that rises."
    assert figure.outputs[1].metadata["image/png"]["alt"] == "A line that rises."
    assert (figure.execution_count, last.execution_count) == (1, 2)
    assert figure.metadata == {"tags": ["thumbnail"]}, "and no time of execution"
    assert Image.open(tmp_path / "thumbnails" / "one.png").size[0] == run_notebooks.THUMBNAIL[0]
    assert str(tmp_path).encode() not in once


def test_a_cell_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = write(tmp_path / "one.ipynb", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run_notebooks.main([str(path)])
    assert path.read_bytes() == before
