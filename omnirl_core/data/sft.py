"""Rows as prompt and response, for training on what should be said: the warm start before GRPO."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from omnirl_core.boxes import from_pixels
from omnirl_core.data.dataset import RowTransform
from omnirl_core.data.images import open_image
from omnirl_core.data.record import DataError

Size = tuple[int, int]


@dataclass(frozen=True)
class ResponseTransform:
    """Draws a row as `prompt`, `completion` (one assistant turn) and opened `images`.

    `template` is the response; `{solution}` in it is the row's answer, and `{name}` any other key of the row.
    Of several references the first is taught. A box is told in `space`, as the rewards will read it.
    """

    rows: RowTransform
    template: str
    space: str = "pixels"
    resize: Callable[[Size], Size] | None = None

    def __call__(self, batch: Mapping[str, list[str]]) -> dict[str, list[Any]]:
        drawn = self.rows(batch)
        rows = [dict(zip(drawn, values, strict=True)) for values in zip(*drawn.values(), strict=True)]
        images = [[open_image(path, row["row_id"]) for path in row["images"]] for row in rows]
        responses = [self._response(row, seen) for row, seen in zip(rows, images, strict=True)]
        if self.rows.as_text:
            return {"prompt": drawn["prompt"], "completion": responses}
        return {"prompt": drawn["prompt"], "completion": responses, "images": images}

    def _response(self, row: dict[str, Any], images: list[Any]) -> list[dict[str, Any]]:
        answer = answer_text(row["solution"], self.space, images[0].size if images else None, self.resize)
        try:
            text = self.template.format_map({**row, "solution": answer})
        except KeyError as error:
            raise DataError(
                f"{row['row_id']}: the response template names {error}, which the row has not; it has {', '.join(row)}"
            ) from None
        content = text if self.rows.as_text else [{"type": "text", "text": text}]
        return [{"role": "assistant", "content": content}]


def answer_text(
    solution: Any,
    space: str = "pixels",
    shown: Size | None = None,
    resize: Callable[[Size], Size] | None = None,
) -> str:
    """The answer as the policy should write it.

    >>> answer_text(7), answer_text(["a red star", "one star, red"]), answer_text([10, 10, 30, 30], "0-1000", (40, 40))
    ('7', 'a red star', '[250, 250, 750, 750]')
    """
    is_list = isinstance(solution, list)
    if is_list and len(solution) == 4 and all(isinstance(side, int | float) for side in solution):
        x1, y1, x2, y2 = solution
        if space != "pixels" and shown is not None:
            resized = resize(shown) if resize else None
            x1, y1, x2, y2 = from_pixels((x1, y1, x2, y2), space, shown, resized)
        return str([round(side) for side in (x1, y1, x2, y2)])
    return str(solution[0]) if is_list and solution else str(solution)
