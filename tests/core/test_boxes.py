"""Boxes: every way to write one, IoU against torchvision, sizes against transformers."""

import doctest
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, generalized_box_iou
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from omnirl_core.boxes import (
    MAX_BRACKETS,
    SPACE_OF_MODEL_TYPE,
    SPACES,
    LabelledBox,
    area,
    default_space,
    from_pixels,
    giou,
    iou,
    parse_boxes,
    parse_labelled_boxes,
    resized_size,
    to_pixels,
)

ONE = (1.0, 2.0, 3.0, 4.0)
TWO = (5.0, 6.0, 7.0, 8.0)

WRITTEN = [
    ("[1, 2, 3, 4]", [ONE]),
    ("[1,2,3,4,]", [ONE]),
    ("(1, 2, 3, 4)", [ONE]),
    ("1, 2, 3, 4", [ONE]),
    ("1 2 3 4", [ONE]),
    ("[1\n,2,\n3,\t4\n]", [ONE]),
    ("[3, 4, 1, 2]", [ONE]),
    ("[3, 2, 1, 4]", [ONE]),
    ("[+1, 2.0, 3., 4e0]", [ONE]),
    ("[-1.5, .5, 1e2, 2E+1]", [(-1.5, 0.5, 100.0, 20.0)]),
    ("［１，２，３，４］", [ONE]),
    ("【1、2、3、4】", [ONE]),
    ("[−1, 2, 3, 4]", [(-1.0, 2.0, 3.0, 4.0)]),
    ('{"bbox_2d": [1, 2, 3, 4]}', [ONE]),
    ('{"bbox": [1, 2, 3, 4], "label": "cat"}', [ONE]),
    ("{'box': [1, 2, 3, 4], 'label': \"dog's\"}", [ONE]),
    ("{bbox_2d: [1, 2, 3, 4]}", [ONE]),
    ('{"answer": {"boxes": [[1, 2, 3, 4], [5, 6, 7, 8]]}}', [ONE, TWO]),
    ('{"x1": 1, "y1": 2, "x2": 3, "y2": 4}', [ONE]),
    ('{"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}', [ONE]),
    ('{"bbox_2d": [[1, 2], [3, 4]]}', [ONE]),
    ('```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]\n```', [ONE]),
    ("<|box_start|>(1,2),(3,4)<|box_end|>", [ONE]),
    ("<ref>cat</ref><box>[[1,2,3,4]]</box>", [ONE]),
    ("first [1,2,3,4], then (5, 6, 7, 8).", [ONE, TWO]),
    ("(1, 2), (3, 4) and [5, 6, 7, 8]", [ONE, TWO]),
    ("the dog's box is [1,2,3,4], isn't it", [ONE]),
    ("(see [1,2,3,4]", [ONE]),
    ('"[1,2,3,4]"', [ONE]),
    ('{"bbox_2d": [1, 2, 3, 4], "label": "[5, 6, 7, 8]"}', [ONE]),
    ('{"bbox_2d": [1, 2, 3, 4], "label": "say \\"[5, 6, 7, 8]\\""}', [ONE]),
    ('{"label": "never closed\n, "bbox_2d": [1, 2, 3, 4]}', [ONE]),
    ('[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5, 6, 7', [ONE]),
    ("[1, 2, 3, 4, 0.5]", [ONE]),
]

NO_BOX = [
    "", "   ", "no box here", "[]", "[1, 2, 3]", "[1, 2, 3, 4, 5]", "[1, 2, 3, 4, 5, 6]", "[1, 2, 3, 4",
    "[1, 2, 3, 4)", "[NaN, 2, 3, 4]", "[Infinity, 2, 3, 4]", "[-inf, 2, 3, 4]", "[1e999, 2, 3, 4]",
    "[1e10, 2, 3, 4]", f"[{'9' * 400}, 2, 3, 4]", "[1.2.3, 4, 5]", "[10-20, 30, 40]", "[1, 2, 3, 4px]",
    "[x1=1, 2, 3, 4]", "(1, 2, 3, and 4)", '["cat", 1, 2, 3, 4]', "[[1, 2], [3, 4], [5, 6]]",
    "[(1, 2), (3, 4), (5, 6), (7, 8)]", "a 1 2 3 4", "[1, [2], 3, 4, 5]", '{"bbox": [1, 2, 3, true]}',
]  # fmt: skip


@pytest.mark.parametrize(("text", "boxes"), WRITTEN)
def test_a_box_is_read_however_it_is_written(text, boxes):
    assert parse_boxes(text) == boxes


@pytest.mark.parametrize("text", NO_BOX)
def test_what_is_no_box_is_refused(text):
    assert parse_boxes(text) == []


def test_labels_and_scores_stay_with_their_box():
    text = (
        '[{"bbox_2d": [1, 2, 3, 4], "label": "cat", "score": 0.5}, [5, 6, 7, 8, 0.25],'
        ' {"category_id": 3, "boxes": [[1, 2, 3, 4], [5, 6, 7, 8]]}, {"bbox": [1, 2, 3, 4], "name": "ca'
    )
    assert parse_labelled_boxes(text) == [
        LabelledBox(ONE, "cat", 0.5),
        LabelledBox(TWO, None, 0.25),
        LabelledBox(ONE, "3"),
        LabelledBox(TWO, "3"),
        LabelledBox(ONE),  # its label was cut off
    ]
    assert parse_labelled_boxes('{"bbox": [1, 2, 3, 4], "name": "caf\\u00e9"}')[0].label == "café"


@pytest.mark.parametrize(
    "solution",
    [[1, 2, 3, 4], (1.0, 2.0, 3.0, 4.0), [[1, 2, 3, 4]], {"bbox_2d": [1, 2, 3, 4]}, [{"bbox": [3, 4, 1, 2]}],
     np.array([1, 2, 3, 4]), [np.float32(1), np.int64(2), 3, 4]],
)  # fmt: skip
def test_references_are_read_as_data_too(solution):
    assert parse_boxes(solution) == [ONE]


@pytest.mark.parametrize("solution", [None, 5, True, [], {}, [None], [float("nan"), 1, 2, 3], {"a": None}])
def test_data_without_a_box_holds_none(solution):
    assert parse_boxes(solution) == []


finite = st.floats(-1e6, 1e6)


@given(boxes=st.lists(st.tuples(finite, finite, finite, finite), max_size=20), label=st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_json_round_trip(boxes, label):
    expected = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    text = json.dumps([{"bbox_2d": box, "label": label} for box in boxes])
    assert parse_boxes(text) == expected
    assert [found.label for found in parse_labelled_boxes(text)] == [label] * len(boxes)


@given(st.text(alphabet="[](){}1.,-e:\"'\\ \nax", max_size=60))
@settings(max_examples=1000, deadline=None)
def test_any_text_gives_finite_sorted_boxes(text):
    for x1, y1, x2, y2 in parse_boxes(text):
        assert all(math.isfinite(v) for v in (x1, y1, x2, y2))
        assert x1 <= x2
        assert y1 <= y2


HOSTILE = [
    "[", "]", "(", "{", "}", "[]", "[(", "[(]", "{[1}", "1", "1 ", "[1", "[1,", "1,", "[1e", "-", "+-", ".",
    "1.",
    '"', '{"', "{'", '{"a":', '{"a', "\\", ":", ",", "(1,2),", "[1,2,3,4]", '{"b":[1,2,3,4],"label":"x"}',
    "<answer>", "e\u0301", "：", "１", "一",
]  # fmt: skip


@pytest.mark.timeout(30)  # a watchdog: each takes below 0.1 s, and minutes if a step were quadratic
@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_is_read_in_linear_time(piece):
    for text in (piece * (200_000 // len(piece)), '{"a": "' + piece * (200_000 // len(piece))):
        assert len(parse_boxes(text)) <= MAX_BRACKETS


def random_boxes(n, seed):
    corners = np.random.default_rng(seed).uniform(0, 100, (n, 2, 2))
    return [tuple(map(float, (*low, *high))) for low, high in zip(corners.min(1), corners.max(1), strict=True)]


def test_iou_and_giou_equal_torchvision():
    a, b = random_boxes(60, 0), random_boxes(60, 1)
    for ours, oracle in ((iou, box_iou), (giou, generalized_box_iou)):
        matrix = oracle(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
        assert torch.tensor([[ours(x, y) for y in b] for x in a], dtype=torch.float64) == pytest.approx(
            matrix, abs=1e-12
        )


def test_iou_equals_the_integer_formula_of_vlm_r1():
    """Its -1 and +1 cancel to the continuous IoU wherever the overlap is wider and higher than one pixel."""
    a, b = (10, 10, 50, 60), (20, 5, 70, 40)
    x1, y1, x2, y2 = max(a[0], b[0]), max(a[1], b[1]), min(a[2] - 1, b[2] - 1), min(a[3] - 1, b[3] - 1)
    inter = (x2 - x1 + 1) * (y2 - y1 + 1)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    assert iou(a, b) == inter / union


@pytest.mark.parametrize(
    ("a", "b", "expected_iou", "expected_giou"),
    [
        ((0, 0, 4, 4), (0, 0, 4, 4), 1.0, 1.0),
        ((0, 0, 1, 1), (0, 0, 1, 1), 1.0, 1.0),  # one pixel
        ((0, 0, 0.5, 1), (0.25, 0, 0.5, 1), 0.5, 0.5),  # normalised
        ((0, 0, 2, 2), (2, 0, 4, 2), 0.0, 0.0),  # they touch
        ((0, 0, 4, 4), (1, 1, 1, 3), 0.0, 0.0),  # a line inside a box
        ((1, 1, 1, 1), (1, 1, 1, 1), 0.0, -1.0),  # two points
        ((1, 1, 1, 5), (3, 1, 3, 5), 0.0, -1.0),  # two lines
    ],
)
def test_degenerate_and_touching_boxes(a, b, expected_iou, expected_giou):
    assert iou(a, b) == iou(b, a) == expected_iou
    assert giou(a, b) == giou(b, a) == expected_giou


def test_a_box_whose_corners_are_not_sorted_has_no_area():
    """parse_boxes sorts them; the measures take boxes as they come."""
    assert area((4, 4, 0, 0)) == iou((4, 4, 0, 0), (0, 0, 4, 4)) == 0.0


sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@given(box=st.tuples(finite, finite, finite, finite), size=sizes, resized=sizes, space=st.sampled_from(SPACES))
@settings(max_examples=200, deadline=None)
def test_spaces_round_trip(box, size, resized, space):
    there = from_pixels(box, space, image_size=size, resized_size=resized)
    assert to_pixels(there, space, image_size=size, resized_size=resized) == pytest.approx(box, rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("space", SPACES)
def test_the_whole_image_is_the_whole_image_in_every_space(space):
    whole = {
        "pixels": (0, 0, 640, 480),
        "resized": (0, 0, 644, 476),
        "0-1000": (0, 0, 1000, 1000),
        "0-1": (0, 0, 1, 1),
    }
    pixels = to_pixels(whole[space], space, image_size=(640, 480), resized_size=(644, 476))
    assert pixels == pytest.approx((0, 0, 640, 480))


@pytest.mark.parametrize(
    ("space", "image_size", "resized", "message"),
    [
        ("resized", (640, 480), None, "resized_size must be"),
        ("resized", None, (640, 480), "image_size must be"),
        ("0-1000", None, None, "image_size must be"),
        ("0-1", (0, 480), None, "image_size must be"),
        ("percent", (640, 480), None, "'percent' is none of pixels"),
    ],
)
def test_a_space_without_its_size_says_so(space, image_size, resized, message):
    with pytest.raises(ValueError, match=message):
        to_pixels((0, 0, 1, 1), space, image_size=image_size, resized_size=resized)


@given(
    width=st.integers(1, 6000),
    height=st.integers(1, 6000),
    factor=st.sampled_from([28, 32]),
    bounds=st.sampled_from([(56 * 56, 28 * 28 * 1280), (256 * 256, 512 * 512), (65536, 16777216), (784, 784)]),
)
@settings(max_examples=500, deadline=None)
def test_resized_size_equals_transformers(width, height, factor, bounds):
    try:
        high, wide = smart_resize(height, width, factor, *bounds)
    except ValueError:
        with pytest.raises(ValueError, match="200 times"):
            resized_size((width, height), factor, *bounds)
    else:
        assert resized_size((width, height), factor, *bounds) == (wide, high)


def test_default_space_knows_the_families_and_asks_about_others():
    assert default_space("qwen2_5_vl") == "resized"
    assert {default_space(family) for family in ("qwen2_vl", "qwen3_vl", "internvl")} == {"0-1000"}
    assert set(SPACE_OF_MODEL_TYPE.values()) <= set(SPACES)
    with pytest.raises(ValueError, match=r"'qwen2_5_vll'; set `space` .*; did you mean 'qwen2_5_vl'\?"):
        default_space("qwen2_5_vll")


def test_the_examples_of_the_docs_run():
    page = Path(__file__).parents[2] / "docs" / "boxes.md"
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted >= 4
    assert result.failed == 0
