"""How VLM-R1's evaluation script reads a box and measures IoU: rules that its published figures rest on.

Restated so that time stays linear in the text; tests/evaluation/test_vlmr1.py holds them to the published patterns.
"""

import re

from omnirl_core.types import Box

_FOUR_WHOLE_NUMBERS = re.compile(r"\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)\]")
_MOST_DIGITS = 30  # longer numbers are no pixels, and no box with one overlaps anything


def vlmr1_box(text: str, one_line: bool = False) -> Box | None:
    """Return the box that VLM-R1's evaluation reads, None where it reads none.

    It takes the first `<answer>`, wherever it stands, and in it the last list of four whole numbers that has a
    brace `{` before it and a brace `}` after it. A sign, a decimal, or a blank next to a bracket spoils a list.
    With `one_line`, as in 2025-02, the answer must open and close on the same line.

    >>> vlmr1_box('<answer>{"a": [1, 2, 3, 4], "b": [5, 6, 7, 8]}</answer>')
    (5.0, 6.0, 7.0, 8.0)
    >>> vlmr1_box("<answer>[1, 2, 3, 4]</answer>")
    """
    parts = text.split("\n") if one_line else [text]
    answer = next((body for body in map(_answer, parts) if body is not None), "")
    opened, closed = answer.find("{"), answer.rfind("}")
    if opened < 0:
        return None
    lists = _FOUR_WHOLE_NUMBERS.finditer(answer, opened + 1)
    found = [match.groups() for match in lists if match.end() <= closed]
    if not found or max(map(len, found[-1])) > _MOST_DIGITS:
        return None
    x1, y1, x2, y2 = map(float, found[-1])
    return x1, y1, x2, y2


def _answer(text: str) -> str | None:
    _, opening, rest = text.partition("<answer>")
    body, closing, _ = rest.partition("</answer>")
    return body if opening and closing else None


def vlmr1_iou(a: Box, b: Box) -> float:
    """Return IoU as VLM-R1 computes it: an overlap of one pixel or less in width or height counts as none.

    The operations stand in the original's order, so that a value next to a threshold falls on the same side.
    Reversed corners give what they give there, also values below 0.

    >>> vlmr1_iou((0, 0, 10, 10), (5, 0, 15, 10)), vlmr1_iou((0, 0, 10, 10), (9, 0, 19, 10))
    (0.3333333333333333, 0.0)
    """
    left, top = max(a[0], b[0]), max(a[1], b[1])
    right, bottom = min(a[2] - 1, b[2] - 1), min(a[3] - 1, b[3] - 1)
    overlap = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union else 0.0  # the original divides by zero, which ends it
