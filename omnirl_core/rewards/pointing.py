"""Rewards for points, masks and spans of time: clicks, GUI-G2's Gaussian, IoU of polygons and of intervals.

Points are read as `[x, y]`, `(x, y)`, `{"x": 1, "y": 2}`, `<point>x y</point>` or `x="1" y="2"`; the last one counts,
and a box stands for its centre. Spaces of answer and reference are set as for boxes (docs/boxes.md).
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from omnirl_core.boxes import parse_boxes
from omnirl_core.rewards.answers.structured import read_json
from omnirl_core.rewards.grounding import Spaces, reads_spaces, reference_boxes
from omnirl_core.rewards.reward import on_answer
from omnirl_core.text import strip_tags
from omnirl_core.types import Box

Point = tuple[float, float]
_N = r"([-+]?+(?:\d{1,9}+(?:\.\d{0,12}+)?+|\.\d{1,12}+))"
_POINT = re.compile(
    rf"[\[(]\s*+{_N}\s*+,\s*+{_N}\s*+[\])]|\"x\"\s*+:\s*+{_N}\s*+,\s*+\"y\"\s*+:\s*+{_N}"
    rf"|<point>\s*+{_N}(?:\s*+,\s*+|\s++){_N}\s*+</point>|\bx=\"{_N}\"\s++y=\"{_N}\""
)
_TIME = re.compile(r"(?<![\d.:])(?:(?:(\d{1,3}+):)?(\d{1,4}+):)?(\d{1,9}+(?:\.\d{1,9}+)?+)(?![\d:])")
MOST_CHARACTERS = 20_000
MOST_POINTS = 300
GRID = 512  # samples along the longer side of what two masks cover


def parse_points(source: object) -> list[Point]:
    """The points of a text, or of what JSON made of it, in their order; centres of boxes where it has no point.

    >>> parse_points("click(3, 4.5)"), parse_points({"point_2d": [1, 2]}), parse_points([0, 0, 10, 20])
    ([(3.0, 4.5)], [(1.0, 2.0)], [(5.0, 10.0)])
    """
    text = source if isinstance(source, str) else json.dumps(source, default=str)
    found = [[float(one) for one in match.groups() if one] for match in _POINT.finditer(text[:MOST_CHARACTERS])]
    return [(x, y) for x, y in found] or [
        ((a + c) / 2, (b + d) / 2) for a, b, c, d in parse_boxes(text[:MOST_CHARACTERS])
    ]


def _best(answer: str, solution: object, spaces: Spaces, score: Callable[[Point, Box], float]) -> float | None:
    """The best score of the answer's point with one of the reference's boxes; a point is one of no area."""
    references = [one.box for one in reference_boxes(solution) or ()]
    if not references and spaces.reward == "point_distance" and solution is not None:
        text = strip_tags(solution) if isinstance(solution, str) else solution
        references = [(x, y, x, y) for x, y in parse_points(text)]
    if not references:
        return None
    answer_to_pixels, reference_to_pixels = spaces.converters()
    points = parse_points(answer)
    if not points:
        return 0.0
    x, y, _, _ = answer_to_pixels((*points[-1], *points[-1]))
    return max(score((x, y), reference_to_pixels(box)) for box in references)


@on_answer
@reads_spaces
def point_in_box(prediction: str, solution: object, *, spaces: Spaces) -> float | None:
    """1.0 where the answer's point lies in the reference box, or in one of several, else 0.0: clicks in a GUI.

    >>> point_in_box("[30, 40]", [20, 20, 60, 60]), point_in_box("(70, 40)", [20, 20, 60, 60])
    (1.0, 0.0)
    """
    return _best(prediction, solution, spaces, _lies_in)


@on_answer
@reads_spaces
def point_gaussian(prediction: str, solution: object, *, sigma: float = 0.5, spaces: Spaces) -> float | None:
    """GUI-G2's reward of a click, in (0, 1]: a Gaussian around the box's centre, `sigma` times its sides wide.

    exp(-(dx^2 / (sigma w)^2 + dy^2 / (sigma h)^2) / 2); the best of several boxes counts (arXiv 2507.15846).

    >>> point_gaussian("[40, 40]", [20, 20, 60, 60]), round(point_gaussian("[60, 40]", [20, 20, 60, 60]), 3)
    (1.0, 0.607)
    """

    def density(at: Point, box: Box) -> float:
        dx, dy = _from_centre(at, box)
        return math.exp(-((dx / (box[2] - box[0])) ** 2 + (dy / (box[3] - box[1])) ** 2) / (2 * sigma**2))

    return _best(prediction, solution, spaces, density)


@on_answer
@reads_spaces
def point_distance(prediction: str, solution: object, *, radius: float = 50.0, spaces: Spaces) -> float | None:
    """1 - distance / `radius` (pixels of the original image) to the reference point or a box's centre, in [0, 1].

    >>> point_distance("[30, 40]", [60, 80], radius=100), point_distance("[0, 0]", [60, 80])
    (0.5, 0.0)
    """
    return _best(
        prediction, solution, spaces, lambda at, box: max(0.0, 1 - math.hypot(*_from_centre(at, box)) / radius)
    )


@on_answer
@reads_spaces
def point_count(prediction: str, solution: object, *, radius: float = 50.0, spaces: Spaces) -> float | None:
    """1.0 where the answer lists as many points as there are objects, and each hits one of its own, else 0.0.

    The reference lists boxes, which a point has to lie in, or points, of which one has to be within `radius` pixels;
    of a bare number only the count is judged, by points that differ. `[]` or 0 asks for an answer without points.

    >>> point_count("[[5, 5], [25, 5]]", [[0, 0, 10, 10], [20, 0, 30, 10]]), point_count("[[5, 5], [6, 6]]", 2)
    (1.0, 1.0)
    >>> point_count("[[5, 5], [6, 6]]", [[0, 0, 10, 10], [20, 0, 30, 10]]), point_count("2", 2)
    (0.0, 0.0)
    """
    reference = _json(solution)
    if isinstance(reference, int | float) and not isinstance(reference, bool):
        targets, wanted = [], reference
    else:
        pairs = isinstance(reference, list) and all(isinstance(one, list) and len(one) == 2 for one in reference)
        boxes = None if pairs and reference else reference_boxes(reference)
        targets = [one.box for one in boxes or ()] or [(x, y, x, y) for x, y in parse_points(reference)]
        if boxes is None and not targets:
            return None
        wanted = len(targets)
    points = parse_points(prediction[:MOST_CHARACTERS])
    if not wanted:
        return float(not points and (prediction.strip() == "0" or reference_boxes(prediction) == []))
    if not len(points) == len(set(points)) == wanted or len(points) > MOST_POINTS:
        return 0.0
    if not targets:
        return 1.0
    answer_to_pixels, reference_to_pixels = spaces.converters()
    said = np.array([answer_to_pixels((*point, *point)) for point in points])[:, None]  # (said, 1, 4)
    places = np.array([reference_to_pixels(box) for box in targets])  # (targets, 4)
    outside = np.maximum(places[:, :2] - said[..., :2], said[..., 2:] - places[:, 2:]).clip(0)
    reach = np.where((places[:, :2] == places[:, 2:]).all(-1), radius, 0.0)
    from scipy.optimize import linear_sum_assignment  # half a second to import

    hits = np.hypot(outside[..., 0], outside[..., 1]) <= reach  # (said, targets)
    return float(hits[linear_sum_assignment(hits, maximize=True)].all())


def _json(source: object) -> object:
    """What a text holds as JSON, the text itself where it is none."""
    try:
        return read_json(strip_tags(source)) if isinstance(source, str) else source
    except ValueError:
        return source


def _lies_in(at: Point, box: Box) -> float:
    return float(box[0] <= at[0] <= box[2] and box[1] <= at[1] <= box[3])


def _from_centre(at: Point, box: Box) -> Point:
    return at[0] - (box[0] + box[2]) / 2, at[1] - (box[1] + box[3]) / 2


@on_answer
def temporal_iou(prediction: str, solution: object) -> float | None:
    """IoU of two spans of time, in [0, 1]: seconds or clock times (`1:05`); the best of several references counts.

    The last two times of the answer count.

    >>> temporal_iou("from 0:10 to 0:30", [20, 40]), temporal_iou("[1:00, 2:00]", "60 - 120 s")
    (0.3333333333333333, 1.0)
    """
    several = isinstance(solution, list | tuple) and any(isinstance(one, list | tuple | str) for one in solution)
    listed: Any = solution if several else [solution]
    spans = [span for one in listed if one is not None and (span := _span(one)) is not None]
    spans = [span for span in spans if span[0] < span[1]]
    if not spans:
        return None
    said = _span(prediction)
    if said is None or said[0] >= said[1]:
        return 0.0
    return max(
        max(0.0, min(said[1], end) - max(said[0], start)) / (max(said[1], end) - min(said[0], start))
        for start, end in spans
    )


def _span(source: object) -> tuple[float, float] | None:
    text = strip_tags(source) if isinstance(source, str) else json.dumps(source, default=str)
    times = [
        3600 * int(hours or 0) + 60 * int(minutes or 0) + float(seconds)
        for hours, minutes, seconds in _TIME.findall(text[-MOST_CHARACTERS:])
    ]
    return (times[-2], times[-1]) if len(times) > 1 else None


Polygon = list[Point]


@on_answer
def mask_iou(prediction: str, solution: object) -> float | None:
    """IoU of two masks, in [0, 1], sampled on a grid of 512: polygons in pixels, or COCO's RLE.

    Polygons are lists of points or of alternating x and y, one or several; an RLE is an object of `size` (height,
    width) and `counts` (a list, or COCO's string).

    >>> square = [[0, 0], [10, 0], [10, 10], [0, 10]]
    >>> mask_iou("[[0, 0], [10, 0], [10, 10], [0, 10]]", square), mask_iou("[0, 0, 5, 0, 5, 10, 0, 10]", square)
    (1.0, 0.5)
    """
    wanted = _shape(solution)
    if wanted is None:
        return None
    said = _shape(prediction[:MOST_CHARACTERS])
    if said is None:
        return 0.0
    corners = [np.reshape(one, (-1, 2)) for shape in (said, wanted) for one in _outline(shape)]
    low, high = np.concatenate(corners).min(0), np.concatenate(corners).max(0)
    step = float(max(high - low)) / GRID
    if not 0 < step < 1e6:
        return 0.0
    a, b = (_sampled(shape, low, step) for shape in (said, wanted))
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 0.0


def _shape(source: object) -> list[Polygon] | np.ndarray | None:
    """Polygons, or a mask (height, width); None where it is neither."""
    source = _json(source)
    if isinstance(source, str):
        source = parse_points(source)
    if isinstance(source, dict) and "counts" in source:
        return _decoded(source)
    if isinstance(source, dict):
        source = source.get("segmentation") or source.get("polygon")
    if not isinstance(source, list | tuple) or not source:
        return None
    several = any(isinstance(one, list | tuple) and len(one) > 2 for one in source)
    polygons = [polygon for one in (source if several else [source]) if (polygon := _polygon(one))]
    return polygons or None


def _polygon(source: Any) -> Polygon | None:
    try:
        points = np.asarray(source, dtype=float).reshape(-1, 2)
    except (ValueError, TypeError, OverflowError):
        return None
    fine = 3 <= len(points) <= 2_000 and np.isfinite(points).all() and np.abs(points).max() < 1e6
    return [(x, y) for x, y in points.tolist()] if fine else None


def _decoded(source: dict[str, Any]) -> np.ndarray | None:
    """The mask of COCO's run lengths, by columns, the first run outside."""
    try:
        height, width = map(int, source["size"])
        counts = source["counts"]
        runs = np.array(_run_lengths(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    except (KeyError, TypeError, ValueError, OverflowError, IndexError):
        return None
    if not 0 < height * width <= 50_000_000 or runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
        return None
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _run_lengths(text: str) -> list[int]:
    """COCO's string of run lengths: five bits a character, from the third run on the change since two runs before."""
    runs: list[int] = []
    value = shift = 0
    for char in text:
        bits = ord(char) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def _outline(shape: list[Polygon] | np.ndarray) -> list[Any]:
    return [[(0, 0), shape.shape[::-1]]] if isinstance(shape, np.ndarray) else shape


def _sampled(shape: list[Polygon] | np.ndarray, low: np.ndarray, step: float) -> np.ndarray:
    """(GRID, GRID): whether the middle of each cell is inside."""
    if isinstance(shape, np.ndarray):
        middles = (np.arange(GRID) + 0.5) * step
        rows, columns = (np.floor(middles + low[axis]).astype(int) for axis in (1, 0))
        inside = np.zeros((GRID, GRID), dtype=bool)
        y, x = ((at >= 0) & (at < size) for at, size in zip((rows, columns), shape.shape, strict=True))
        inside[np.ix_(y, x)] = shape[np.ix_(rows[y], columns[x])]
        return inside
    from PIL import Image, ImageDraw

    canvas = Image.new("1", (GRID, GRID))
    for polygon in shape:
        corners = (np.asarray(polygon) - low) / step - 0.5
        ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners.tolist()], fill=1)
    return np.asarray(canvas)
