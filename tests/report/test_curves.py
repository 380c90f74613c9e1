"""`curves.png` and the SVG curves, from whole logs and from next to nothing."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from omnirl_tools.report import plot_curves
from omnirl_tools.report.panels import Panel, Series, panels, read_metrics
from omnirl_tools.report.svg import HEIGHT, WIDTH, panel_svg, ticks


def test_png_is_written_beside_the_log_and_shows_something(run_folder):
    path = plot_curves(run_folder)
    assert path == run_folder / "curves.png"
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape[0] > 600
    assert pixels.shape[1] > 1200
    blue = (np.abs(pixels.astype(int) - (0x2F, 0x6F, 0xBF)).sum(-1) < 30).sum()
    assert blue > 1000  # the reward's line
    assert Image.open(path).convert("RGBA").getextrema()[3] == (
        255,
        255,
    )  # a dark page does not shine through


@pytest.mark.parametrize("log", ["", '{"step": 1, "reward": 0.5}\n', '{"step": 1, "loss": 0.5}\n', '{"step'])
def test_png_of_next_to_nothing(tmp_path, log):
    (tmp_path / "metrics.jsonl").write_text(log)
    assert Image.open(plot_curves(tmp_path)).size[0] > 300


def test_png_goes_where_it_is_asked(run_folder, tmp_path):
    assert plot_curves(run_folder, tmp_path / "other.png").exists()
    assert not (run_folder / "curves.png").exists()


def test_pyplot_is_left_alone(run_folder):
    code = (
        "import sys, matplotlib as m; before = m.rcParams.copy();"
        "from omnirl_tools.report import plot_curves; plot_curves(sys.argv[1]);"
        "assert 'matplotlib.pyplot' not in sys.modules;"
        "assert not [key for key in before if key != 'backend' and before[key] != m.rcParams[key]]"
    )
    subprocess.run([sys.executable, "-c", code, str(run_folder)], check=True, timeout=120)


def test_svg_stays_inside_its_frame_and_is_well_formed(run_folder):
    for panel in panels(read_metrics(run_folder)):
        root = ElementTree.fromstring(panel_svg(panel))
        assert root.attrib["aria-label"].startswith(panel.title)
        for path in root.iter("path"):
            numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", path.attrib["d"])]
            assert all(0 <= x <= WIDTH for x in numbers[::2])
            assert all(0 <= y <= HEIGHT for y in numbers[1::2])


def test_svg_draws_values_where_the_axis_says():
    panel = Panel("x", "", (Series("x", ((0, 0.0), (10, 1.0))),), is_reward=True, bounds=(0.0, 1.0))
    root = ElementTree.fromstring(panel_svg(panel))
    (mean,) = [path for path in root.iter("path") if "mean" in path.attrib["class"]]
    (x1, y1), (x2, y2) = [map(float, pair.split()) for pair in mean.attrib["d"][1:].split("L")]
    label_of = {text.text: text for text in root.iter("text")}
    assert float(label_of["0.2"].attrib["y"]) == pytest.approx(y1 + 0.2 * (y2 - y1), abs=0.11)
    assert float(label_of["4"].attrib["x"]) == pytest.approx(x1 + 0.4 * (x2 - x1), abs=0.11)


@pytest.mark.parametrize("points", [((5, 0.3),), ((5, 0.3), (6, 0.3)), ((1, 1e-9), (2, 2e-9)), ((1, -1e6), (2, 1e6))])
def test_svg_of_one_point_of_flat_lines_and_of_extremes(points):
    ElementTree.fromstring(panel_svg(Panel("<&>", "", (Series('"', points),))))
    ElementTree.fromstring(panel_svg(Panel("<&>", "", (Series('"', points),), is_reward=True)))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.2, 0.21), (-5, 5), (1, 30), (0, 1e7), (0, 3e-5)])
def test_ticks_are_round_few_and_inside(low, high):
    found = ticks(low, high, 5)
    assert 2 <= len(found) <= 11
    assert all(low - 1e-12 <= value <= high * (1 + 1e-9) for value in found)
    steps = np.diff(found)
    assert np.allclose(steps, steps[0])
    assert f"{steps[0]:.0e}"[0] in "125"


@pytest.mark.parametrize("most", [0.0, 0.004, 0.03, 0.6, 1.0])
def test_ticks_of_a_share_are_kept_apart(tmp_path, monkeypatch, most):
    """Rounded to whole per cents, those of a small share were all 0%."""
    (tmp_path / "metrics.jsonl").write_text(
        f'{{"step": 1, "frac_reward_zero_std": 0.0}}\n{{"step": 2, "frac_reward_zero_std": {most}}}\n'
    )
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: drawn.append(figure))
    plot_curves(tmp_path)
    (axes,) = drawn[0].axes
    drawn[0].canvas.draw()
    shown = [tick.get_text() for tick in axes.get_yticklabels()]
    assert len(shown) == len(set(shown)) >= 3
    (panel,) = panels(read_metrics(tmp_path))
    reported = re.findall(r">([\d.]+)%</text>", panel_svg(panel))
    assert len(reported) == len(set(reported)) >= 3
    assert max(map(float, reported)) <= 100
