"""One look for every figure: colours, a matplotlib style, and `show`, which gives a figure its alt text.

The paper is opaque and a little darker than white, so that a figure reads the same on a light and on a dark page.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from omnirl_tools.report.panels import Point, smoothed

COLORS = ("#2f6fbf", "#d9772b", "#2f9468", "#8b62c8", "#c94f5d", "#1f98a6", "#a8862a", "#7a828c")
"""In the order in which lines take them: blue, orange, green, violet, red, teal, ochre, grey."""
BLUE, ORANGE, GREEN, VIOLET, RED, TEAL, OCHRE, GREY = COLORS
INK, QUIET, GRID, PAPER = "#24292f", "#6a737d", "#e1e5ea", "#f6f8fa"
"""Titles and text; ticks and notes; lines of the grid; the ground."""
SEQUENTIAL = LinearSegmentedColormap.from_list("paper to blue", (PAPER, BLUE, "#173a66"))
DIVERGING = LinearSegmentedColormap.from_list("orange to blue", (ORANGE, PAPER, BLUE))
"""For grids of numbers: from nothing to much, and from less over as it was to more."""
PIXELS_PER_INCH = 160
WIDTH_PER_INCH = 90  # CSS pixels on the page, so that a figure of 8 inches fits a notebook's column
MOST_COLORS = 256  # enough for lines and drawn shapes, at a third of the size


def style() -> None:
    """Set matplotlib's defaults, as a notebook's first cell does.

    >>> before = matplotlib.rcParams.copy()
    >>> style()
    >>> matplotlib.rcParams["axes.facecolor"]
    '#f6f8fa'
    >>> matplotlib.rcParams.update(before)
    """
    matplotlib.rcParams.update(
        {
            "figure.facecolor": PAPER, "axes.facecolor": PAPER, "savefig.facecolor": PAPER,
            "figure.constrained_layout.use": True, "figure.constrained_layout.w_pad": 0.12,
            "figure.constrained_layout.h_pad": 0.12, "figure.figsize": (8.0, 3.0),
            "font.size": 9.0, "text.color": INK, "axes.labelcolor": QUIET, "axes.labelsize": 9.0,
            "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
            "axes.titlecolor": INK, "axes.titlepad": 10.0,
            "axes.prop_cycle": cycler(color=COLORS),
            "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": GRID,
            "axes.edgecolor": GRID, "axes.spines.left": False, "axes.spines.right": False,
            "axes.spines.top": False, "xtick.color": QUIET, "ytick.color": QUIET,
            "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "xtick.major.size": 0, "ytick.major.size": 0,
            "lines.linewidth": 1.8, "lines.solid_capstyle": "round", "legend.frameon": False,
            "legend.fontsize": 8.5, "image.interpolation": "nearest",
        }
    )  # fmt: skip


def show(figure: Figure, alt: str) -> None:
    """Show the figure in a notebook as a PNG with its alt text, and close it.

    The text travels in the output's metadata, where nbconvert and JupyterLab take an image's `alt` from, and as
    `text/plain` for viewers without images; nbval compares it, and leaves pixels alone.

    Args:
        alt: what the figure shows, in a sentence or two, for a reader who cannot see it.

    Raises:
        ValueError: `alt` is empty.
    """
    from IPython.display import display  # a notebook has it; the package does without
    from matplotlib import pyplot

    if not alt.strip():
        raise ValueError("show(figure, alt): alt is empty; say what the figure shows")
    data = {"image/png": base64.b64encode(png(figure)).decode("ascii"), "text/plain": alt}
    width = round(figure.get_figwidth() * WIDTH_PER_INCH)
    display(data, metadata={"image/png": {"alt": alt, "width": width}}, raw=True)
    pyplot.close(figure)  # or the notebook shows it again, at the end of the cell, without its alt text


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes, the same for the same figure: no version, no date."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=PIXELS_PER_INCH, metadata={"Software": None})
    image = Image.open(file).convert("RGB").quantize(MOST_COLORS, dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def draw_curve(axes: Axes, points: Sequence[Point], label: str | None = None, color: str = BLUE) -> None:
    """Draw `(step, value)` points as a thin line, and their running mean as a thick one."""
    steps = [step for step, _ in points]
    values = [value for _, value in points]
    mean = [value for _, value in smoothed(points)]
    alone: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(steps) == 1 else {}
    if mean != values:
        axes.plot(steps, values, color=color, alpha=0.32, linewidth=0.8)
    axes.plot(steps, mean, color=color, linewidth=1.8, label=label, solid_capstyle="round", **alone)


def draw_grid(
    axes: Axes,
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    most: float = 1.0,
) -> None:
    """Draw numbers as a table of shades, each number in its cell; `most` is the value of the darkest shade."""
    axes.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=most, aspect="auto")
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", color=PAPER if value > 0.45 * most else INK)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(False)


def draw_image(axes: Axes, image: Image.Image | Sequence[Image.Image], title: str = "", note: str = "") -> None:
    """Show an image in the axes, without ticks, a title above it and a note of one or more lines below.

    Several images stand side by side; for none there is an empty ground that says so.
    """
    images = [image] if isinstance(image, Image.Image) else list(image)
    joined = side_by_side(images) if images else Image.new("RGB", (4, 3), GRID)
    axes.imshow(joined, interpolation="nearest" if max(joined.size) < 200 else "antialiased")
    if not images:
        axes.text(0.5, 0.5, "no image", transform=axes.transAxes, ha="center", va="center", color=QUIET)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=GRID)
    axes.set_title(title, fontsize=9.0, pad=6)
    axes.set_xlabel(note, fontsize=8.5, color=INK, loc="left", labelpad=6)


def side_by_side(images: Sequence[Image.Image], gap: int = 6) -> Image.Image:
    """One image of several, in order, their tops aligned.

    >>> side_by_side([Image.new("RGB", (20, 10)), Image.new("RGB", (30, 40))]).size
    (56, 40)
    """
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    joined = Image.new("RGB", (width, max(image.height for image in images)), PAPER)
    left = 0
    for image in images:
        joined.paste(image.convert("RGB"), (left, 0))
        left += image.width + gap
    return joined
