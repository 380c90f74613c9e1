"""Points, masks and spans: formulas written out, scikit-image's polygons and COCO's own encoding as oracles."""

import json
import math
import random
from itertools import permutations

import numpy as np
import pytest
from skimage.draw import polygon2mask

from omnirl_core.rewards import Reward
from omnirl_core.rewards.pointing import parse_points
from omnirl_core.rewards.registry import scorer_named

NAMES = ("point_in_box", "point_gaussian", "point_distance", "mask_iou", "temporal_iou", "point_count")
point_in_box, point_gaussian, point_distance, mask_iou, temporal_iou, point_count = map(scorer_named, NAMES)
PAIRS = 400
FORMS = ("[{}, {}]", "({}, {})", '{{"x": {}, "y": {}}}', "<point>{} {}</point>", '{{"point_2d": [{}, {}]}}')


def test_points_are_the_formulas():
    rng = random.Random(0)
    for _ in range(PAIRS):
        x1, y1 = rng.randint(0, 300), rng.randint(0, 300)
        w, h = rng.randint(1, 300), rng.randint(1, 200)
        x, y = rng.randint(0, 600), rng.randint(0, 500)
        box, said = [x1, y1, x1 + w, y1 + h], rng.choice(FORMS).format(x, y)
        dx, dy, sigma = x - x1 - w / 2, y - y1 - h / 2, rng.choice([0.25, 0.5, 1.0])
        assert point_in_box(said, box) == float(x1 <= x <= x1 + w and y1 <= y <= y1 + h)
        gaussian = math.exp(-0.5 * (dx**2 / (sigma * w) ** 2 + dy**2 / (sigma * h) ** 2))
        assert point_gaussian(said, box, sigma=sigma) == pytest.approx(gaussian)
        assert point_distance(said, [x1, y1], radius=200) == pytest.approx(
            max(0.0, 1 - math.dist((x, y), (x1, y1)) / 200)
        )


def test_spans_are_the_formula():
    rng = random.Random(0)
    for _ in range(PAIRS):
        a, b = (sorted(rng.sample(range(4000), 2)) for _ in range(2))
        inside = len(set(range(*a)) & set(range(*b)))
        clock = " to ".join(f"{second // 60}:{second % 60:02}" for second in a)
        for text in (str(a), f"{a[0]} - {a[1]} s", clock, f"<span>{a[0]}.0, {a[1]}</span>"):
            assert temporal_iou(text, b) == pytest.approx(inside / len(set(range(*a)) | set(range(*b))))


def star(rng):
    """A polygon without crossings around a centre."""
    cx, cy = rng.uniform(80, 320), rng.uniform(80, 220)
    angles = [2 * math.pi * (k + rng.uniform(0, 0.8)) / 8 for k in range(8)]
    return [
        [round(cx + r * math.cos(angle), 1), round(cy + r * math.sin(angle), 1)]
        for angle, r in ((angle, rng.uniform(25, 80)) for angle in angles)
    ]


def pixels(polygon, scale):
    """(height, width) in (row, column), `scale` pixels a unit."""
    corners = [(scale * y - 0.5, scale * x - 0.5) for x, y in polygon]
    return polygon2mask((300 * scale, 400 * scale), corners)


def coco_counts(mask):
    """maskApi.c: run lengths by columns, then rleToString."""
    flat = mask.T.reshape(-1).astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, len(flat)]).tolist()
    runs = [0, *runs] if flat[0] else runs
    text = ""
    for i, run in enumerate(runs):
        x, more = run - runs[i - 2] if i > 2 else run, True
        while more:
            c = x & 0x1F
            x >>= 5
            more = x != -1 if c & 0x10 else x != 0
            text += chr((c | 0x20 if more else c) + 48)
    return runs, text


def test_masks_are_scikit_images():
    rng = random.Random(0)
    differences = []
    for index in range(300):
        a = star(rng)
        b = [[x + rng.uniform(-9, 9), y + rng.uniform(-9, 9)] for x, y in a] if rng.random() < 0.7 else star(rng)
        scale = 1
        ours, theirs = pixels(a, scale), pixels(b, scale)
        expected = np.count_nonzero(ours & theirs) / np.count_nonzero(ours | theirs)
        flat = [[number for corner in b for number in corner]]
        differences.append(mask_iou(json.dumps(a), flat if index % 2 else b) - expected)
    assert np.abs(differences).max() < 0.03
    assert abs(np.mean(differences)) < 0.002


def test_run_lengths_are_cocos():
    rng = random.Random(0)
    for _ in range(10):
        polygon = star(rng)
        mask = pixels(polygon, 1)
        runs, text = coco_counts(mask)
        size = list(mask.shape)
        for counts in (runs, text):
            assert mask_iou(json.dumps({"size": size, "counts": counts}), {"size": size, "counts": runs}) == 1.0
            assert mask_iou(json.dumps(polygon), {"size": size, "counts": counts}) == pytest.approx(1.0, abs=0.04)


def test_a_count_by_points_is_some_order_in_which_each_hits_its_own():
    rng = random.Random(0)
    found = []
    for _ in range(500):
        boxes = [(x, y, x + rng.randint(20, 60), y + rng.randint(20, 60)) for x, y in _places(rng, rng.randint(1, 4))]
        points = [
            (rng.uniform(x1, x2), rng.uniform(y1, y2)) if rng.random() < 0.9 else (rng.uniform(0, 90), y1)
            for x1, y1, x2, y2 in rng.choices(boxes, k=len(boxes)) if rng.random() < 0.97
        ]  # fmt: skip
        points = [(round(x, 3), round(y, 3)) for x, y in points]
        expected = len(points) == len(boxes) and any(
            all(x1 <= x <= x2 and y1 <= y <= y2 for (x, y), (x1, y1, x2, y2) in zip(order, boxes, strict=True))
            for order in permutations(points)
        )
        assert point_count(json.dumps(points), [list(box) for box in boxes]) == expected
        near = len(points) == len(boxes) and any(
            all(math.dist(one, box[:2]) <= 20 for one, box in zip(order, boxes, strict=True))
            for order in permutations(points)
        )
        assert point_count(json.dumps(points), [list(box[:2]) for box in boxes], radius=20) == near
        found.append(expected)
    assert 100 < sum(found) < 400


def _places(rng, n):
    return [(rng.randint(0, 60), rng.randint(0, 60)) for _ in range(n)]


TABLE = [
    (point_count, "[[4, 3], [20, 16]]", [[20, 15], [5, 3]], {"radius": 2}, 1.0),
    (point_count, "[[4, 3], [4, 3]]", 2, {}, 0.0),
    (point_count, "[4, 3] and [9, 9]", "2", {}, 1.0),
    (point_count, "2", 2, {}, 0.0),
    (point_count, "none", [], {}, 1.0),
    (point_count, "0", 0, {}, 1.0),
    (point_count, "I see a boat", [], {}, 0.0),
    (point_count, "[[1, 1]]", [], {}, 0.0),
    (point_count, "", [[1, 2]], {}, 0.0),
    (point_count, "[[1, 1]]", "three", {}, None),
    (point_count, "[[1, 1]]", None, {}, None),
    (point_count, "[[500, 500]]", [[300, 220, 340, 260]], {"space": "0-1000", "image_sizes": [(640, 480)]}, 1.0),
    (point_count, "[[1, 2]]" * 9_000, [[1, 2]], {}, 0.0),
    (point_in_box, "I click [30, 40] then [90, 90]", [20, 20, 60, 60], {}, 0.0),
    (point_in_box, "[20, 20, 60, 60]", [20, 20, 60, 60], {}, 1.0),
    (point_in_box, "[30, 40]", [[0, 0, 5, 5], [20, 20, 60, 60]], {}, 1.0),
    (point_in_box, "", [20, 20, 60, 60], {}, 0.0),
    (point_in_box, "[30, 40]", [30, 40], {}, None),
    (point_in_box, "[30, 40]", None, {}, None),
    (point_in_box, "[500, 500]", [300, 220, 340, 260], {"space": "0-1000", "image_sizes": [(640, 480)]}, 1.0),
    (point_gaussian, "[1e9, 1]", [20, 20, 60, 60], {}, 0.0),
    (point_gaussian, "[999999999, 1]", [20, 20, 60, 60], {}, 0.0),
    (point_distance, '<point x="10.5" y="20">', [10.5, 20], {}, 1.0),
    (point_distance, "[40, 40]", [20, 20, 60, 60], {}, 1.0),
    (point_distance, "x", "no point", {}, None),
    (temporal_iou, "1:00:00 to 1:00:30", [3600, 3630], {}, 1.0),
    (temporal_iou, "30 to 10", [10, 30], {}, 0.0),
    (temporal_iou, "", [10, 30], {}, 0.0),
    (temporal_iou, "10 to 20", [30, 30], {}, None),
    (temporal_iou, "10 to 20", [[0, 5], [10, 20]], {}, 1.0),
    (temporal_iou, "10 to 20", None, {}, None),
    (mask_iou, "[[0, 0], [4, 0]]", [[0, 0], [4, 0], [4, 4]], {}, 0.0),
    (mask_iou, "[[0, 0], [0, 0], [0, 0]]", [[0, 0], [4, 0], [4, 4]], {}, 0.0),
    (mask_iou, "(0, 0), (4, 0), (4, 4), (0, 4)", [[0, 0, 4, 0, 4, 4, 0, 4]], {}, 1.0),
    (mask_iou, "[[0, 0], [1e7, 0], [4, 4]]", [[0, 0], [4, 0], [4, 4]], {}, 0.0),
    (mask_iou, '{"size": [99999, 99999], "counts": "0"}', [[0, 0], [4, 0], [4, 4]], {}, 0.0),
    (mask_iou, "[1]", "nothing", {}, None),
    (mask_iou, "[1]", [1, 2, 3, 4], {}, None),
]


@pytest.mark.parametrize(("scorer", "prediction", "solution", "columns", "expected"), TABLE)
def test_adversarial(scorer, prediction, solution, columns, expected):
    score = scorer(prediction, solution, **columns)
    assert score == (expected if expected is None else pytest.approx(expected, abs=0.01))


def test_points_of_many_forms():
    assert parse_points("(1, 2) or [3.5, -4]") == [(1.0, 2.0), (3.5, -4.0)]
    assert parse_points("12, 13") == parse_points("[1, 2, 3]") == []


def test_the_sizes_come_from_the_row():
    reward = Reward("point_in_box", point_in_box, settings={"space": "0-1"})
    completion = "<think>so</think><answer>[0.5, 0.5]</answer>"
    sizes = {"image_sizes": [[(640, 480)]], "resized_sizes": [None]}
    assert reward(completions=[completion], solution=[[300, 220, 340, 260]], **sizes) == [1.0]


def test_settings_are_checked(refusal):
    message = refusal("{name: point_gaussian, settings: {sigma: 0}}", "{name: point_in_box, settings: {space: pixel}}")
    assert "rewards.yaml:2: point_gaussian: sigma: 0 must be above 0" in message
    assert ":3: point_in_box: space: 'pixel' is not a choice; did you mean 'pixels'?" in message
