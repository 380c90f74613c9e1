"""docs/curves.md: its table and figure are those of the runs that are kept, and what it says of them is so."""

import io
import json

from PIL import Image, ImageChops

from omnirl_tools.report.figures import png
from scripts.curves_of_runs import FIGURE, NUMBERS, ROOT, RUNS, STEPS, draw, table

KEPT = json.loads(NUMBERS.read_text())


def mean(name: str, key: str, steps: range) -> float:
    values = [value for step, value in KEPT[name][key] if step in steps]
    return sum(values) / len(values)


def test_the_table_is_of_the_runs():
    assert table(KEPT) in (ROOT / "docs" / "curves.md").read_text()
    assert list(KEPT) == list(RUNS)
    assert all(series["reward"][-1][0] == STEPS for series in KEPT.values())


def test_the_figure_is_of_the_runs():
    drawn, stored = (Image.open(file).convert("RGB") for file in (io.BytesIO(png(draw(KEPT))), FIGURE))
    assert drawn.size == stored.size
    assert ImageChops.difference(drawn, stored).getbbox() is None


def test_what_the_page_says_of_them():
    early, late = range(11, 31), range(STEPS - 9, STEPS + 1)
    assert mean("learning_rate", "form", early) > 0.9
    assert mean("learning_rate", "exact", early) < mean("good", "exact", early)
    assert mean("learning_rate", "constant", early) > 0.5
    assert mean("learning_rate", "cut", late) == 1
    assert mean("cut", "form", range(50, 61)) < mean("good", "form", range(20, 31))
    assert mean("form", "exact", range(16, 31)) < mean("good", "exact", range(16, 31))
    assert mean("form", "reward", late) > 2 * mean("good", "reward", late)
    assert mean("form", "exact", late) <= mean("good", "exact", late)
    assert mean("length", "reward", late) > 2 * mean("length", "reward", range(11))
    assert mean("length", "exact", late) < mean("length", "exact", range(20, 41))
