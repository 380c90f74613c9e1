"""The style of the figures, and what `show` hands to a notebook."""

import base64
import io

import matplotlib
import numpy as np
import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from matplotlib import pyplot
from PIL import Image, ImageColor

from omnirl_tools.report.figures import (
    COLORS,
    GREY,
    INK,
    PAPER,
    QUIET,
    draw_curve,
    draw_image,
    png,
    show,
    style,
)


@pytest.fixture(autouse=True)
def _style():
    with matplotlib.rc_context():
        matplotlib.use("agg")
        style()
        yield
    pyplot.close("all")


def contrast(color: str, ground: str) -> float:
    """WCAG 2.1, relative luminance and contrast ratio."""

    def luminance(name: str) -> float:
        channels = np.array(ImageColor.getrgb(name)[:3]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    high, low = sorted((luminance(color), luminance(ground)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_lines_can_be_told_from_the_paper_and_the_paper_from_the_page():
    assert contrast(INK, PAPER) >= 7
    assert contrast(QUIET, PAPER) >= 4.5
    assert all(contrast(color, PAPER) >= 2.9 for color in COLORS if color != GREY)
    assert PAPER != "#ffffff"
    assert contrast(PAPER, "#0d1117") >= 12


def test_a_figure_is_opaque_and_the_same_twice():
    def draw() -> bytes:
        figure, axes = pyplot.subplots(1, 2)
        draw_curve(axes[0], [(step, step**0.5) for step in range(60)], "reward")
        draw_image(axes[1], Image.new("RGB", (30, 20), "red"), "a question", "an answer")
        return png(figure)

    once, again = draw(), draw()
    assert once == again
    image = Image.open(io.BytesIO(once)).convert("RGBA")
    assert image.getpixel((0, 0)) == (*ImageColor.getrgb(PAPER), 255)
    assert image.getextrema()[3] == (255, 255)
    assert b"atplotlib" not in once


def test_show_gives_image_and_alt_text_and_closes_the_figure():
    shell = InteractiveShell.instance()
    kept, shell.display_pub = shell.display_pub, CapturingDisplayPublisher()
    try:
        figure, _ = pyplot.subplots()
        show(figure, alt="An empty plot.")
        (output,) = shell.display_pub.outputs
    finally:
        shell.display_pub = kept
        InteractiveShell.clear_instance()
    assert output["data"]["text/plain"] == "An empty plot."
    assert output["metadata"]["image/png"]["alt"] == "An empty plot."
    assert base64.b64decode(output["data"]["image/png"]).startswith(b"\x89PNG")
    assert not pyplot.get_fignums()


def test_a_figure_without_alt_text_is_refused():
    with pytest.raises(ValueError, match="say what the figure shows"):
        show(pyplot.figure(), alt=" ")
