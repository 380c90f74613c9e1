"""Notebooks that open in Colab: their badge leads to them, and the cell that installs does nothing elsewhere."""

import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell

from scripts.colab import ID, main

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.fixture
def copies(tmp_path):
    for path in NOTEBOOKS:
        shutil.copy(path, tmp_path)
    return tmp_path


def read(folder):
    return {path.stem: nbformat.read(path, as_version=4) for path in sorted(folder.glob("*.ipynb"))}


def test_each_gets_a_badge_and_a_cell_and_stays_what_it_was(copies):
    before = read(copies)
    main(["someone/omnirl-copy", "--branch", "v1", "--notebooks", str(copies)])
    for name, notebook in read(copies).items():
        nbformat.validate(notebook)
        first, install, *rest = notebook.cells
        assert f"/github/someone/omnirl-copy/blob/v1/notebooks/{name}.ipynb)" in first.source
        assert first.source.startswith(before[name].cells[0].source.splitlines()[0])
        assert "https://github.com/someone/omnirl-copy /content/omnirl" in install.source
        assert rest == before[name].cells[1:]


def test_another_address_replaces_the_first(copies):
    main(["someone/one", "--notebooks", str(copies)])
    once = read(copies)
    main(["another/two", "--notebooks", str(copies)])
    main(["someone/one", "--notebooks", str(copies)])
    assert read(copies) == once


def test_the_cell_does_nothing_elsewhere(copies):
    main(["someone/one", "--notebooks", str(copies)])
    cell = next(cell for cell in read(copies)["01_first_run"].cells if cell.get("id") == ID)
    assert "google.colab" not in sys.modules
    here = Path.cwd()
    result = InteractiveShell.instance().run_cell(cell.source)
    assert result.success
    assert Path.cwd() == here


def test_no_address_is_refused(copies, capsys):
    with pytest.raises(SystemExit):
        main(["https://github.com/someone/one", "--notebooks", str(copies)])
    assert "no OWNER/NAME" in capsys.readouterr().err
