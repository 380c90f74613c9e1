"""Box rewards against torchvision, brute-force assignment and COCO's average precision written out."""

import itertools
import json
from typing import get_args

import numpy as np
import pytest
import torch
import torchvision

from omnirl_core.boxes import SPACES
from omnirl_core.rewards.grounding import COCO_THRESHOLDS, Space, box_ap, box_f1, box_iou

BOX = [10, 20, 110, 220]
RIGHT = "<think>there</think><answer>[10, 20, 110, 220]</answer>"
SCORERS = (box_iou, box_f1, box_ap)


def says(boxes, labels=None, scores=None):
    """An answer in Qwen's format."""
    rows = [{"bbox_2d": list(map(float, box))} for box in boxes]
    for row, label in zip(rows, labels or [], strict=False):
        row["label"] = label
    for row, score in zip(rows, scores if scores is not None else [], strict=False):
        row["score"] = float(score)
    return f"<think>.</think><answer>\n```json\n{json.dumps(rows, indent=1)}\n```\n</answer>"


def random_boxes(rng, n):
    corners = rng.uniform(0, 100, (n, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1) + 1], axis=1)


def oracle_iou(a, b):
    return torchvision.ops.box_iou(torch.tensor(np.array(a)), torch.tensor(np.array(b))).numpy()


# --- one box ---

ADVERSARIAL = [
    (RIGHT, 1.0),
    ("<answer>[10, 20, 110, 220]</answer>", 1.0),
    ('<answer>{"bbox_2d": [10.0, 20.0, 110.0, 220.0],\n "label": "x"}</answer>', 1.0),
    ("<answer>[110, 220, 10, 20]</answer>", 1.0),
    ("<answer>(10, 20), (110, 220)</answer>", 1.0),
    (
        "<answer>[0, 0, 1, 1]</answer><answer>[10, 20, 110, 220]</answer>",
        1.0,
    ),  # the last answer is the answer
    ("<answer>[10, 20, 110, 220]</answer><answer>[0, 0, 1, 1]</answer>", 0.0),
    ("<think><answer>[10, 20, 110, 220]</answer></think><answer>no idea</answer>", 0.0),
    ("<answer>[10, 20, 110, 220]", 0.0),  # cut off
    ("[10, 20, 110, 220]", 0.0),  # no answer
    ("<answer></answer>[10, 20, 110, 220]", 0.0),
    ("", 0.0),
    ("   ", 0.0),
    (None, 0.0),
    ([], 0.0),
    ([{"role": "assistant", "content": RIGHT}], 1.0),
    ([{"role": "assistant", "content": [{"type": "text", "text": RIGHT}]}], 1.0),
    ("<answer>none</answer>", 0.0),
    ("<answer>框是［10，20，110，220］。</answer>", 1.0),
    ("<answer>[NaN, 20, 110, 220]</answer>", 0.0),
    ("<answer>[10, 20, 110, 1e400]</answer>", 0.0),
    ("<answer>[10, 20, 110, 220, 330]</answer>", 0.0),
    ("<answer>[10, 20, 10, 220]</answer>", 0.0),  # no area
    ("<answer>[10, 20, 60, 220]</answer>", 0.5),
    ("<answer>[10.5, 20, 110.5, 220]</answer>", 99.5 / 100.5),
    ("<answer>[10, 20, 110, 220] [500, 500, 600, 600]</answer>", 0.0),  # one box counts: the last
]


@pytest.mark.parametrize(("completion", "expected"), ADVERSARIAL)
def test_box_iou_reads_the_box_of_the_answer(completion, expected):
    assert box_iou(completion, BOX) == pytest.approx(expected)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize(
    "reference",
    [BOX, tuple(BOX), [BOX], [float(v) for v in BOX], str(BOX), f"<answer> {BOX} </answer>",
     {"bbox_2d": BOX}, [{"bbox_2d": BOX}], json.dumps({"bbox": BOX}), [110, 220, 10, 20], np.array(BOX)],
)  # fmt: skip
def test_references_are_read_in_every_form(scorer, reference):
    assert scorer(RIGHT, reference) == 1.0


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize(
    "reference",
    [None, "", "a cat", 7, {}, {"label": "cat"}, [1, 2, 3], [1, 1, 1, 5], ["x"], [None], float("nan")],
)
def test_a_reference_without_a_box_is_unjudgeable(scorer, reference):
    assert scorer(RIGHT, reference) is None
    assert scorer("", reference) is None


def test_soft_iou_equals_torchvision_and_the_threshold_is_inclusive():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 50), random_boxes(rng, 50)
    for box, reference in zip(a, b, strict=True):
        expected = oracle_iou([box], [reference])[0, 0]
        answer = says([box])
        assert box_iou(answer, reference.tolist()) == pytest.approx(expected, abs=1e-12)
        assert box_iou(answer, reference.tolist(), threshold=0.3) == float(expected >= 0.3)
        giou = torchvision.ops.generalized_box_iou(torch.tensor(box)[None], torch.tensor(reference)[None]).item()
        assert box_iou(answer, reference.tolist(), kind="giou") == pytest.approx((1 + giou) / 2, abs=1e-12)
    assert box_iou("<answer>[10, 20, 60, 220]</answer>", BOX, threshold=0.5) == 1.0


def test_listing_boxes_buys_nothing_that_one_box_would_not():
    grid = [[x, y, x + 100, y + 200] for x in range(0, 500, 50) for y in range(0, 500, 50)]
    listed = says([*grid, BOX, [400, 400, 500, 600]])
    assert box_iou(listed, BOX) == 0.0
    assert box_iou(listed, BOX, pick="first") == pytest.approx(oracle_iou([grid[0]], [BOX])[0, 0])
    assert box_iou(listed, BOX, pick="only") == 0.0
    assert box_iou(says([BOX, BOX]), BOX, pick="only") == 1.0  # the same box twice is one box


def test_several_references_are_alternatives_for_one_box():
    assert box_iou(RIGHT, [[500, 500, 600, 600], BOX]) == 1.0


# --- spaces ---


@pytest.mark.parametrize(
    ("space", "box"),
    [
        ("pixels", [64, 120, 320, 480]),
        ("resized", [128, 60, 640, 240]),
        ("0-1000", [100, 250, 500, 1000]),
        ("0-1", [0.1, 0.25, 0.5, 1]),
    ],
)
@pytest.mark.parametrize("scorer", SCORERS)
def test_the_answer_is_taken_to_the_pixels_of_its_image(scorer, space, box):
    sizes = {"image_sizes": [(640, 480)], "resized_sizes": [[1280, 240]]}
    reference = [64, 120, 320, 480]
    assert scorer(says([box]), reference, space=space, **sizes) == pytest.approx(1.0)
    others = {"image_sizes": [(9, 9), (640, 480)], "resized_sizes": [(9, 9), (1280, 240)], "image_index": 1}
    assert scorer(says([box]), reference, space=space, **others) == pytest.approx(1.0)
    assert scorer(says([reference]), box, space="pixels", solution_space=space, **sizes) == pytest.approx(1.0)
    assert scorer(says([box]), box, space=space, solution_space=space) == 1.0  # no sizes needed


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": "resized"}, "space 'resized' needs the row's `image_sizes`, which is missing"),
        ({"space": "resized", "image_sizes": [(9, 9)]}, "needs the row's `resized_sizes`, which is missing"),
        ({"space": "0-1000", "image_sizes": []}, "`image_sizes`, which has 0 entries and image_index is 0"),
        ({"space": "0-1", "image_sizes": [(9, 9)], "image_index": 1}, "has 1 entries and image_index is 1"),
        ({"space": "0-1000", "image_sizes": [(0, 9)]}, r"image_size must be a positive \(width, height\)"),
        ({"space": "percent"}, "space: 'percent' is not a choice; known: pixels, resized, 0-1000, 0-1"),
    ],
)
def test_a_space_that_lacks_its_sizes_is_an_error_that_names_the_fix(scorer, settings, message):
    with pytest.raises(ValueError, match=message):
        scorer(RIGHT, BOX, **settings)


def test_a_wrong_setting_is_an_error():
    assert get_args(Space) == SPACES
    for settings in ({"pick": "best"}, {"kind": "diou"}, {"kind": "giou", "threshold": 0.5}):
        with pytest.raises(ValueError, match=r"^(pick: 'best'|kind: 'diou'|box_iou: threshold)"):
            box_iou(RIGHT, BOX, **settings)
    with pytest.raises(ValueError, match="measure: 'map' is not a choice; known: f1, precision, recall"):
        box_f1(RIGHT, BOX, measure="map")


# --- several boxes ---


def brute_force_hits(overlaps, threshold, soft):
    """Best one-to-one assignment by trying them all."""
    worth = np.where((overlaps >= threshold) & (overlaps > 0), overlaps if soft else 1.0, 0.0)
    worth = worth if worth.shape[0] <= worth.shape[1] else worth.T
    rows = range(worth.shape[0])
    return max(worth[rows, columns].sum() for columns in itertools.permutations(range(worth.shape[1]), len(rows)))


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("soft", [False, True])
def test_box_f1_equals_brute_force_assignment(threshold, soft):
    rng = np.random.default_rng(1)
    for _ in range(40):
        found, references = random_boxes(rng, rng.integers(1, 6)), random_boxes(rng, rng.integers(1, 6))
        hits = brute_force_hits(oracle_iou(found, references), threshold, soft)
        expected = {
            "precision": hits / len(found),
            "recall": hits / len(references),
            "f1": 2 * hits / (len(found) + len(references)),
        }
        for measure, value in expected.items():
            score = box_f1(says(found), references.tolist(), threshold=threshold, soft=soft, measure=measure)
            assert score == pytest.approx(value, abs=1e-9)


def test_box_f1_by_giou_equals_brute_force_over_torchvisions():
    rng = np.random.default_rng(2)
    for _ in range(300):
        found, references = random_boxes(rng, rng.integers(1, 5)), random_boxes(rng, rng.integers(1, 5))
        pairs = torchvision.ops.generalized_box_iou(torch.tensor(found), torch.tensor(references)).numpy()
        hits = brute_force_hits((1 + pairs) / 2, 0.3, True)
        score = box_f1(says(found), references.tolist(), threshold=0.3, soft=True, kind="giou")
        assert score == pytest.approx(2 * hits / (len(found) + len(references)), abs=1e-9)


def test_greedy_matching_would_lose_a_pair():
    references = [[0, 0, 10, 10], [4, 0, 14, 10]]
    found = [
        [3, 0, 13, 10],
        [5, 0, 15, 10],
    ]  # the first overlaps the second reference most, and so does the second
    assert box_f1(says(found), references, threshold=0.5) == 1.0


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(["cat", "dog"], 1.0), (["Cat ", "DOG"], 1.0), (["dog", "cat"], 0.0), (None, 0.0)],
)
def test_box_f1_matches_labels_where_the_reference_has_them(labels, expected):
    boxes = [[0, 0, 10, 10], [20, 20, 30, 30]]
    reference = [{"bbox_2d": box, "label": label} for box, label in zip(boxes, ["cat", "dog"], strict=True)]
    assert box_f1(says(boxes, labels), reference) == expected
    assert box_ap(says(boxes, labels), reference) == expected
    assert box_f1(says(boxes, labels), reference, match_labels=False) == 1.0
    assert box_f1(says(boxes, labels), boxes) == 1.0  # labels of the answer alone are ignored


@pytest.mark.parametrize("scorer", [box_f1, box_ap])
@pytest.mark.parametrize("reference", [[], "[]", "none", "<answer>[]</answer>", "没有", "No objects found."])
def test_an_empty_reference_asks_for_an_answer_that_says_so(scorer, reference):
    for said in ("[]", "none", "```json\n[]\n```", "No objects found.", "没有。", "null", '"none"'):
        assert scorer(f"<answer>{said}</answer>", reference) == 1.0
    for silent in (
        "",
        "<answer></answer>",
        "<answer>a cat</answer>",
        "none",
        RIGHT,
        "<answer>none: " + "x" * 999,
    ):
        assert scorer(silent, reference) == 0.0
    assert scorer("<answer>none</answer>", BOX) == 0.0
    assert box_iou("<answer>none</answer>", reference) is None


# --- average precision ---


def coco_ap(found, scores, references, thresholds, max_boxes=100):
    """Average precision as COCO's evaluation defines it: greedy matching by score, 101 recall points."""
    order = sorted(range(len(found)), key=lambda i: -scores[i])[:max_boxes]
    overlaps = oracle_iou(found, references)
    per_threshold = []
    for threshold in thresholds:
        taken, hits = set(), []
        for i in order:
            best = max(
                (j for j in range(len(references)) if j not in taken),
                key=lambda j: overlaps[i, j],
                default=None,
            )
            hit = best is not None and overlaps[i, best] >= threshold
            if hit:
                taken.add(best)
            hits.append(hit)
        curve = [(sum(hits[:k]) / len(references), sum(hits[:k]) / k) for k in range(1, len(hits) + 1)]
        points = [max((p for r, p in curve if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)]
        per_threshold.append(sum(points) / 101)
    return sum(per_threshold) / len(per_threshold)


def noisy_detections(rng):
    references = random_boxes(rng, rng.integers(1, 8))
    near = references[rng.integers(0, len(references), rng.integers(1, 12))]
    near = near + rng.normal(0, 4, near.shape)
    near = np.concatenate([np.minimum(near[:, :2], near[:, 2:]), np.maximum(near[:, :2], near[:, 2:]) + 0.1], 1)
    found = np.concatenate([near, random_boxes(rng, rng.integers(0, 5))])
    return found, rng.uniform(0, 1, len(found)), references


def test_box_ap_equals_coco():
    rng = np.random.default_rng(2)
    for _ in range(60):
        found, scores, references = noisy_detections(rng)
        assert box_ap(says(found, scores=scores), references.tolist()) == pytest.approx(
            coco_ap(found, scores, references, COCO_THRESHOLDS), abs=1e-9
        )
        in_order = -np.arange(len(found))  # without scores the order of the answer ranks
        assert box_ap(says(found), references.tolist(), thresholds=[0.5], max_boxes=5) == pytest.approx(
            coco_ap(found, in_order, references, [0.5], max_boxes=5), abs=1e-9
        )


def test_box_ap_is_the_mean_over_classes_of_reference_and_answer():
    rng = np.random.default_rng(3)
    found, scores, references = noisy_detections(rng)
    cats = [{"bbox_2d": box.tolist(), "label": "cat"} for box in references]
    one_class = coco_ap(found, scores, references, COCO_THRESHOLDS)
    dog = {"bbox_2d": [0.0, 0.0, 9.0, 9.0], "label": "dog"}
    answer = says([*found, [0, 0, 9, 9]], ["cat"] * len(found) + ["dog"], [*scores, 1])
    assert box_ap(answer, [*cats, dog]) == pytest.approx((one_class + 1) / 2, abs=1e-9)
    assert box_ap(answer, cats) == pytest.approx(one_class / 2, abs=1e-9)  # an invented class costs


def test_surplus_boxes_cost_ap_only_where_asked():
    surplus = says([BOX, *([i, 0, i + 5, 5] for i in range(300, 400))])
    assert box_ap(surplus, BOX) == 1.0
    assert box_ap(surplus, BOX, count_penalty=True) == pytest.approx(1 / 101)
    assert box_f1(surplus, BOX) == pytest.approx(2 / 102)


# --- hacks, hostile text ---


def test_no_hack_earns_a_quarter_of_a_right_answer():
    references = [[40, 40, 140, 160], [300, 220, 420, 380]]
    width, height = 640, 480
    grid = [[x, y, x + s, y + s] for s in (80, 160) for x in range(0, width, s) for y in range(0, height, s)]
    hacks = {
        "empty": "",
        "empty answer": "<answer></answer>",
        "tag soup": "<answer>" * 50,
        "none": "<answer>none</answer>",
        "the prompt's example": "<answer>[x1, y1, x2, y2]</answer>",
        "whole image": says([[0, 0, width, height]]),
        "all boxes": says(grid),
        "many copies of one box": says([[200, 150, 400, 300]] * 100),
    }
    for name, completion in hacks.items():
        assert box_iou(completion, references[0]) <= 0.25, name
        assert box_f1(completion, references) <= 0.25, name
        assert box_ap(completion, references) <= 0.25, name


HOSTILE = [
    "[",
    "[1,2,3,4]",
    "[[1,2,3,4],",
    '{"bbox_2d":[1,2,3,4],"label":"x"}',
    "9",
    "1 ",
    '{"',
    "<answer>",
    "\\",
]


@pytest.mark.timeout(60)  # a watchdog: each takes below 0.1 s
@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("scorer", SCORERS)
def test_hostile_answers_are_judged_quickly(scorer, piece):
    references = [{"bbox_2d": [i, i, i + 9, i + 9], "label": "x"} for i in range(20)]
    completion = f"<answer>{piece * (50_000 // len(piece))}</answer>"
    assert 0.0 <= scorer(completion, references) <= 1.0
