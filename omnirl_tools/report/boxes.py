"""The boxes of a row, true and predicted, and its image with them drawn on it."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from omnirl_core.boxes import Size, parse_boxes
from omnirl_core.text import answer_text, strip_tags
from omnirl_core.types import Box

MOST_BOXES = 50
TRUE, PREDICTED = "#1a9850", "#f46d43"


def true_boxes(solution: object) -> list[Box]:
    """Return the boxes that a solution holds, [] where it is no box.

    >>> true_boxes([10, 20, 30, 40]), true_boxes("<answer>[1, 2, 3, 4]</answer>"), true_boxes("a red circle")
    ([(10.0, 20.0, 30.0, 40.0)], [(1.0, 2.0, 3.0, 4.0)], [])
    """
    if solution is None or isinstance(solution, bool | int | float):
        return []
    return parse_boxes(strip_tags(solution) if isinstance(solution, str) else solution)[:MOST_BOXES]


def answered_boxes(completion: str) -> list[Box]:
    """Return the boxes in a completion's answer, in the space that the model answers in.

    >>> answered_boxes("<think>not [9, 9, 9, 9]</think><answer>[0, 0, 500, 500]</answer>")
    [(0.0, 0.0, 500.0, 500.0)]
    """
    return parse_boxes(answer_text(completion) or "")[:MOST_BOXES]


def draw_boxes(
    image: Image.Image, true: Sequence[Box] = (), predicted: Sequence[Box] = (), width: int | None = None
) -> Image.Image:
    """Return a copy of the image with the true boxes in green and the predicted ones in orange, dashed.

    Boxes are in pixels of the image; `omnirl_core.boxes.to_pixels` brings an answer's boxes there.
    """
    drawn = image.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    width = width or max(2, round(min(drawn.size) / 120))
    for box in true:
        if visible := _inside(box, drawn.size):
            pen.rectangle(visible, outline=TRUE, width=width)
    for box in predicted:
        if visible := _inside(box, drawn.size):
            _dashed(pen, visible, PREDICTED, width)
    return drawn


def _inside(box: Box, size: Size) -> tuple[float, float, float, float] | None:
    """The box cut to the image, with inclusive ends as Pillow draws; None where none of it is inside."""
    x1, y1 = max(0.0, box[0]), max(0.0, box[1])
    x2, y2 = min(size[0], box[2]) - 1, min(size[1], box[3]) - 1
    return (x1, y1, x2, y2) if x1 <= x2 and y1 <= y2 else None


def _dashed(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], color: str, width: int) -> None:
    x1, y1, x2, y2 = box
    dash = 4 * width
    for start in range(round(x1), round(x2) + 1, 2 * dash):
        stop = min(start + dash, x2)
        pen.rectangle((start, y1, stop, min(y1 + width - 1, y2)), fill=color)
        pen.rectangle((start, max(y2 - width + 1, y1), stop, y2), fill=color)
    for start in range(round(y1), round(y2) + 1, 2 * dash):
        stop = min(start + dash, y2)
        pen.rectangle((x1, start, min(x1 + width - 1, x2), stop), fill=color)
        pen.rectangle((max(x2 - width + 1, x1), start, x2, stop), fill=color)
