"""Curves as SVG for the HTML report: they take the page's colours, light or dark, and need no script."""

import math
from collections.abc import Iterable, Sequence
from html import escape

from omnirl_core.types import JsonObject
from omnirl_tools.report.panels import Panel, Point, Series, smoothed, thinned

WIDTH, HEIGHT = 340, 168
LEFT, RIGHT, TOP, BOTTOM = 38, 14, 8, 22
MOST_POINTS = 400
LINE_COLORS = 8  # .line-0 to .line-7 in page.css


def panel_svg(panel: Panel) -> str:
    """Return the panel as an `<svg>` element; its title is left to the page."""
    series = [thinned(one, MOST_POINTS) for one in panel.series]
    scale = _Scale(panel, series)
    parts = [_grid(scale, panel.percent)]
    for place, one in enumerate(series):
        parts.append(_series(scale, one, f"line-{place % LINE_COLORS}"))
    kind = "reward" if panel.is_reward else "health"
    first, last = series[0].points[0], series[0].points[-1]
    label = f"{panel.title}: {_short(first[1])} at step {first[0]}, {_short(last[1])} at step {last[0]}"
    return (
        f'<svg class="curve {kind}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def curve_data(panels: Sequence[Panel]) -> JsonObject:
    """What the page's script needs to tell the value under the pointer: each panel's axes and its points as drawn."""
    curves = []
    for panel in panels:
        series = [thinned(one, MOST_POINTS) for one in panel.series]
        scale = _Scale(panel, series)
        lines = [{"label": one.label, "points": one.points, "low": one.low, "high": one.high} for one in series]
        ends = (scale.first, scale.last, scale.low, scale.high)
        curves.append({"ends": ends, "percent": panel.percent, "series": lines})
    return {"frame": (LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM), "curves": curves}


class _Scale:
    """From steps and values to places in the image."""

    def __init__(self, panel: Panel, series: Sequence[Series]):
        steps = [step for one in series for step, _ in one.points]
        self.first, self.last = min(steps), max(max(steps), min(steps) + 1)
        self.low, self.high = panel.limits

    def x(self, step: float) -> float:
        return LEFT + (step - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return TOP + (self.high - inside) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)


def _grid(scale: _Scale, percent: bool) -> str:
    parts = []
    for value in ticks(scale.low, scale.high, 5):
        y = f"{scale.y(value):.1f}"
        label = f"{round(100 * value, 6):g}%" if percent else _short(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y}" dy="0.33em" text-anchor="end">{label}</text>')
    for step in ticks(scale.first, scale.last, 5):
        if step == int(step):
            x = f"{scale.x(step):.1f}"
            parts.append(f'<text class="tick" x="{x}" y="{HEIGHT - 6}" text-anchor="middle">{int(step)}</text>')
    return "".join(parts)


def _series(scale: _Scale, series: Series, name: str) -> str:
    parts = []
    steps = [step for step, _ in series.points]
    if series.low and series.high:
        edge = [*zip(steps, series.high, strict=True), *reversed(list(zip(steps, series.low, strict=True)))]
        parts.append(f'<path class="band {name}" d="{_path(scale, edge)}Z"/>')
    mean = smoothed(series.points)
    if mean != list(series.points):
        parts.append(f'<path class="raw {name}" d="{_path(scale, series.points)}"/>')
    if len(mean) == 1:
        (step, value) = mean[0]
        parts.append(f'<circle class="dot {name}" cx="{scale.x(step):.1f}" cy="{scale.y(value):.1f}" r="3"/>')
    else:
        parts.append(f'<path class="mean {name}" d="{_path(scale, mean)}"/>')
    return "".join(parts)


def _path(scale: _Scale, points: Iterable[Point]) -> str:
    return "M" + "L".join(f"{scale.x(step):.1f} {scale.y(value):.1f}" for step, value in points)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Return round numbers from `low` to `high`, about so many.

    >>> ticks(0, 1, 4), ticks(3, 118, 5)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [20.0, 40.0, 60.0, 80.0, 100.0])
    """
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.75)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def _short(value: float) -> str:
    return f"{value:.3g}"
