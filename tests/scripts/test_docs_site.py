"""The documentation site: built strictly, whole, and without anything that is fetched."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from omnirl_core.rewards.registry import SCORERS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` builds; a link or a name that leads nowhere would have ended it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=500,  # the watchdog
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr.strip()
    return folder


def test_every_page_and_notebook_is_there(site):
    for folder in ("docs", "notebooks"):
        for page in [*(ROOT / folder).glob("*.md"), *(ROOT / folder).glob("*.ipynb")]:
            name = "index" if page.stem == "README" else page.stem
            assert (site / folder / f"{name}.html").is_file(), page


def test_nothing_is_fetched(site):
    tag = r'<(?:script|img|iframe|link rel="(?:stylesheet|preload)")'
    for page in site.rglob("*.html"):
        assert not re.findall(tag + r'[^>]*(?:src|href)="(https?:[^"]+)', page.read_text()), page


def test_links_between_pages_hold(site):
    broken = [
        f"{page.relative_to(site)}: {target}"
        for page in site.rglob("*.html")
        if page.name != "404.html"
        for target in re.findall(r'(?:href|src)="([^"#?:]+)[^":]*"', page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not broken


def test_every_scorer_has_its_docstring(site):
    page = (site / "api" / "scorers.html").read_text()
    for place in SCORERS.values():
        assert f'id="{place.replace(":", ".")}"' in page
    assert "Gaussian around the box" in page


def test_outputs_of_notebooks_are_the_stored_ones(site):
    page = (site / "notebooks" / "01_first_run.html").read_text()
    assert page.count("data:image/png;base64,") >= 3
