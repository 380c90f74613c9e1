"""The restated rules of VLM-R1's evaluation against the patterns and the formula that it published."""

import random
import re

import numpy as np
import pytest

from omnirl_core.boxes import iou
from omnirl_tools.evaluation.vlmr1 import vlmr1_box, vlmr1_iou

# The published patterns: which characters a match consists of is the rule itself.
REGION = r"<answer>(.*?)</answer>"
BRACED = r"\{.*\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)]\s*.*\}"


def published(text: str, one_line: bool):
    flags = 0 if one_line else re.DOTALL
    region = re.search(REGION, text, flags)
    found = region and re.search(BRACED, region.group(1).strip(), flags)
    return tuple(float(number) for number in found.groups()) if found else None


CASES = {
    '<answer>{"bbox": [1, 2, 3, 4]}</answer>': (1, 2, 3, 4),
    "<answer>{[1,2,3,4]}</answer>": (1, 2, 3, 4),
    "<answer>[1, 2, 3, 4]</answer>": None,  # braces are needed
    "<answer>{} [1, 2, 3, 4]</answer>": None,  # one before and one after
    "<answer>} [1, 2, 3, 4] {</answer>": None,
    "<answer>{[1, 2, 3, 4]</answer>": None,
    "<answer>{[1, 2, 3, 4]} [5, 6, 7, 8]</answer>": (1, 2, 3, 4),  # the second has no brace after it
    "<answer>[1, 2, 3, 4] {[5, 6, 7, 8]}</answer>": (5, 6, 7, 8),
    '<answer>{"a": [1, 2, 3, 4], "b": [5, 6, 7, 8]}</answer>': (5, 6, 7, 8),  # the last one
    "<answer>{[[1, 2, 3, 4]]}</answer>": (1, 2, 3, 4),
    "<answer>{[1.0, 2, 3, 4]}</answer>": None,  # whole numbers only
    "<answer>{[-1, 2, 3, 4]}</answer>": None,
    "<answer>{[ 1, 2, 3, 4]}</answer>": None,  # no blank inside the brackets
    "<answer>{[1, 2, 3, 4 ]}</answer>": None,
    "<answer>{[1 ,2, 3, 4]}</answer>": None,
    "<answer>{[1,\n2,\t3,   4]}</answer>": (1, 2, 3, 4),  # blanks after a comma
    "<answer>{[1, 2, 3, 4, 5]}</answer>": None,
    "<answer>{[1, 2, 3]}</answer>": None,
    "<answer>{(1, 2, 3, 4)}</answer>": None,
    "{[1, 2, 3, 4]}": None,  # the tags are needed
    "<answer>{[1, 2, 3, 4]}": None,
    "<answer>{[1, 2, 3, 4]}</answer><answer>{[5, 6, 7, 8]}</answer>": (1, 2, 3, 4),  # the first answer
    "<think><answer>{[1, 2, 3, 4]}</answer></think><answer>{[5, 6, 7, 8]}</answer>": (1, 2, 3, 4),
    "<answer>none</answer><answer>{[5, 6, 7, 8]}</answer>": None,
    '<answer>```json\n[\n{\n"bbox_2d": [1, 2, 3, 4]\n}\n]```</answer>': (1, 2, 3, 4),
    "<answer>{[001, 02, 3, 4]}</answer>": (1, 2, 3, 4),
    "": None,
}


@pytest.mark.parametrize(("text", "box"), CASES.items())
def test_rules_of_2025_06(text, box):
    assert vlmr1_box(text) == published(text, one_line=False) == box


@pytest.mark.parametrize("text", CASES)
def test_rules_of_2025_02_differ_only_by_line_breaks(text):
    expected = None if "\n" in text else CASES[text]
    assert vlmr1_box(text, one_line=True) == published(text, one_line=True) == expected


def test_answer_on_a_later_line_counts_in_2025_02():
    text = "<answer>\n{[1, 2, 3, 4]}</answer>\n<answer>{[5, 6, 7, 8]}</answer>"
    assert vlmr1_box(text, one_line=True) == published(text, one_line=True) == (5, 6, 7, 8)
    assert vlmr1_box(text) == (1, 2, 3, 4)


def test_fifty_thousand_random_texts():
    pieces = [
        "<answer>",
        "</answer>",
        "{",
        "}",
        "[1, 2, 3, 4]",
        "[5,6,7,8]",
        "[1, 2",
        ", 3]",
        "\n",
        " ",
        "[",
        "]",
        "9",
    ]
    weights = [1, 1, 6, 6, 8, 8, *[1] * (len(pieces) - 6)]
    draw = random.Random(0)
    n_boxes = 0
    for _ in range(50_000):
        text = "".join(draw.choices(pieces, weights, k=draw.randint(0, 14)))
        text = f"<answer>{text}</answer>" if draw.random() < 0.7 else text
        for one_line in (False, True):
            found = vlmr1_box(text, one_line)
            assert found == published(text, one_line), text
            n_boxes += found is not None
    assert n_boxes > 10_000


@pytest.mark.timeout(60)  # linear: a second; the patterns themselves: hours
@pytest.mark.parametrize("piece", ["{", "[1, 2, 3, 4]", "<answer>", "{[1, 2, 3, 4]", "9" * 50])
@pytest.mark.parametrize("one_line", [False, True])
def test_hostile_text_takes_no_time(piece, one_line):
    vlmr1_box(f"<answer>{piece * 200_000}</answer>", one_line)


def test_numbers_without_end_are_no_box():
    assert vlmr1_box(f"<answer>{{[1, 2, 3, {'9' * 6000}]}}</answer>") is None


def published_iou(a, b):
    """The formula as published: ends less one, then plus one."""
    x1, y1, x2, y2 = max(a[0], b[0]), max(a[1], b[1]), min(a[2] - 1, b[2] - 1), min(a[3] - 1, b[3] - 1)
    inter = (x2 - x1 + 1) * (y2 - y1 + 1) if x1 < x2 and y1 < y2 else 0
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (0, 0, 10, 5), 0.5),
        ((0, 0, 10, 10), (5, 5, 15, 15), 25 / 175),
        ((0, 0, 10, 10), (9, 0, 19, 10), 0.0),  # one pixel of overlap counts as none
        ((0, 0, 10, 10), (8, 0, 18, 10), 20 / 180),
        ((0, 0, 1, 1), (0, 0, 1, 1), 0.0),  # even where a box of one pixel is hit exactly
        ((0, 0, 0, 0), (0, 0, 10, 10), 0.0),  # what a failed parse stood for
        ((20, 20, 30, 30), (0, 0, 10, 10), 0.0),
        ((10, 10, 0, 0), (0, 0, 10, 10), 0.0),
    ],
)
def test_iou_by_hand(a, b, expected):
    assert vlmr1_iou(a, b) == pytest.approx(expected, abs=1e-15)


def test_two_empty_boxes_score_nothing_where_the_original_divides_by_zero():
    assert vlmr1_iou((0, 0, 0, 0), (5, 5, 5, 5)) == 0.0
    with pytest.raises(ZeroDivisionError):
        published_iou((0, 0, 0, 0), (5, 5, 5, 5))


def test_iou_is_bit_for_bit_the_published_one_and_else_the_continuous_one():
    draw = np.random.default_rng(0)
    for _ in range(20_000):
        reference = np.concatenate([low := draw.uniform(0, 300, 2), low + draw.uniform(1, 300, 2)]).round(2).tolist()
        said = draw.integers(0, 600, 4).astype(float).tolist()
        assert vlmr1_iou(said, reference) == published_iou(said, reference)
        width = min(said[2], reference[2]) - max(said[0], reference[0])
        height = min(said[3], reference[3]) - max(said[1], reference[1])
        if said[0] < said[2] and said[1] < said[3] and min(width, height) > 1.001:
            assert vlmr1_iou(said, reference) == pytest.approx(iou(said, reference), rel=1e-9)
