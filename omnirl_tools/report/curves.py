"""`curves.png` of a run: how the rewards, the lengths and the health of the training moved."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from omnirl_tools.report.figures import BLUE, COLORS, GRID, INK, PAPER, QUIET, draw_curve
from omnirl_tools.report.panels import Panel, Series, panels, read_metrics, thinned
from omnirl_tools.report.run_file import judging_weights

REWARD, HEALTH = BLUE, "#5b6b7f"
MOST_POINTS = 1000


def plot_curves(run_folder: str | Path, path: str | Path | None = None) -> Path:
    """Draw the run's curves and return where they were written: `curves.png` in its folder.

    Works on a run that is still going or was killed. Thin lines are the logged values, thick ones their
    running mean. The paper is opaque, so that the image reads the same on a dark page.
    """
    found = panels(read_metrics(run_folder), judging_weights(run_folder))
    path = Path(path) if path else Path(run_folder) / "curves.png"
    columns = max(1, min(3 if len(found) <= 9 else 4, len(found)))
    rows = max(1, math.ceil(len(found) / columns))
    figure = Figure(
        figsize=((3.7 if columns > 3 else 4.3) * columns, 2.75 * rows),
        dpi=130,
        facecolor=PAPER,
    )
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    FigureCanvasAgg(figure)  # the object interface: pyplot's global state is the user's
    for place, panel in enumerate(found):
        _draw(figure.add_subplot(rows, columns, place + 1), panel)
    if not found:
        figure.text(0.5, 0.5, "No step has been logged yet", ha="center", va="center", color=QUIET)
    figure.savefig(path, facecolor=PAPER)
    return path


def _draw(axes: Axes, panel: Panel) -> None:
    for place, series in enumerate(panel.series):
        color = COLORS[place % len(COLORS)] if len(panel.series) > 1 else REWARD if panel.is_reward else HEALTH
        _draw_series(axes, thinned(series, MOST_POINTS), color)
    axes.set_title(panel.title, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=18)
    axes.text(0, 1.035, panel.note, transform=axes.transAxes, fontsize=7.5, color=QUIET, va="bottom")
    _style(axes, panel)
    if len(panel.series) > 1:
        axes.legend(fontsize=7.5, frameon=False, labelcolor=INK, loc="best", handlelength=1.2)


def _draw_series(axes: Axes, series: Series, color: str) -> None:
    if series.low and series.high:
        steps = [step for step, _ in series.points]
        axes.fill_between(steps, series.low, series.high, color=color, alpha=0.13, linewidth=0)
    draw_curve(axes, series.points, series.label, color)


def _style(axes: Axes, panel: Panel) -> None:
    axes.set_facecolor(PAPER)
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
    axes.tick_params(colors=QUIET, labelsize=8, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("step", fontsize=8, color=QUIET)
    axes.margins(x=0.02)
    low, high = panel.limits
    margin = 0.03 * (high - low)  # a line at the end is seen whole
    axes.set_ylim(low - (margin if low else 0.0), high + margin)
    if panel.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{round(100 * share, 6):g}%"))
