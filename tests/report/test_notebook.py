"""What a notebook does first, and what it must not remove."""

import matplotlib
import pytest

from omnirl_tools.report.figures import PAPER
from omnirl_tools.report.notebook import start


def test_it_empties_its_folder_and_sets_the_style(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "mine" / "run").mkdir(parents=True)
    (tmp_path / "outputs" / "other").mkdir()
    with matplotlib.rc_context():
        folder = start("outputs/mine")
        assert matplotlib.rcParams["axes.facecolor"] == PAPER
    assert folder.is_dir()
    assert not list(folder.iterdir())
    assert (tmp_path / "outputs" / "other").exists()


@pytest.mark.parametrize("folder", ["data", "outputs", ".", "outputs/../data", "/outputs/mine"])
def test_other_folders_are_left_alone(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match="outputs/<name>"):
        start(folder)
    assert (tmp_path / "data").exists()
