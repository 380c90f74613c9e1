"""From the lines of a run's folder to what its report shows of them, ready to be written as JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from omnirl_core.boxes import SPACES, to_pixels
from omnirl_core.data.record import modality
from omnirl_core.text import answer_text
from omnirl_core.types import Box, JsonObject
from omnirl_tools.evaluation.lines import finite, weighted_mean
from omnirl_tools.report.boxes import answered_boxes, true_boxes
from omnirl_tools.report.images import EmbeddedImage
from omnirl_tools.report.sample import Group

MOST_CHARACTERS = 6000
MOST_OF_ANSWER = 300

Line = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """How a row's reward reads boxes: the spaces of answer and solution, and which image they mean."""

    space: str = "pixels"
    solution_space: str = "pixels"
    image_index: int = 0


@dataclass(frozen=True)
class View:
    """How lines are shown: with these images, and, where they do not tell, weights and readings of boxes by task."""

    images: Mapping[str, EmbeddedImage]
    weights: Mapping[str, float]
    readings: Mapping[str, Reading] = field(default_factory=dict)
    box_space: str | None = None

    def row(self, before: Line | None, after: Line | None) -> JsonObject:
        """One held-out row with its answers before and after training; either may not be there yet."""
        answers = {"before": before and self._answer(before), "after": after and self._answer(after)}
        return self._question(before or after or {}) | answers

    def group(self, group: Group) -> JsonObject:
        """One prompt at one step with its completions."""
        answers = [self._answer(line) for line in group.lines]
        shown = {"step": group.step, "phase": group.phase, "answers": answers}
        return self._question(group.lines[0]) | shown

    def _question(self, line: Line) -> dict[str, Any]:
        solution, reading = line.get("solution"), self._reading(line)
        true = true_boxes(solution) if reading else []
        return {
            "id": str(line.get("row_id") or ""),
            "task": line.get("task") or "",
            "modality": line.get("modality") or modality(line),
            "images": [self.images[path].key for path in _paths(line)],
            "problem": str(line.get("problem") or line.get("prompt") or "")[:MOST_CHARACTERS],
            "solution": solution if isinstance(solution, str) else finite(solution),
            "boxes": self._in_pixels(line, true, reading.solution_space, reading) if reading else [],
            "boxed_image": reading.image_index % len(_paths(line)) if reading else 0,
        }

    def _answer(self, line: Line) -> dict[str, Any]:
        text, said = line["completion"], answer_text(line["completion"])
        rewards = finite(line.get("rewards") or {})
        weights = line.get("weights") or self.weights
        score = line["score"] if "score" in line else weighted_mean(rewards, weights)
        return {
            "text": text[:MOST_CHARACTERS],
            "cut": max(0, len(text) - MOST_CHARACTERS),
            "said": said if said is None else said[:MOST_OF_ANSWER],
            "score": finite(score),
            "rewards": rewards,
            "advantage": finite(line.get("advantage")),
            "clipped": bool(line.get("clipped")),
            "tokens": line.get("n_tokens"),
            "boxes": self._predicted(line),
        }

    def _reading(self, line: Line) -> Reading | None:
        """How this row's boxes are read; None where nothing says that it is about boxes."""
        paths = _paths(line)
        reading = _reading(line) or self.readings.get(line.get("task") or "")
        if reading is None and self.box_space and true_boxes(line.get("solution")):
            reading = Reading(self.box_space)
        return reading if reading and -len(paths) <= reading.image_index < len(paths) else None

    def _predicted(self, line: Line) -> list[list[float]]:
        if not (reading := self._reading(line)):
            return []
        return self._in_pixels(line, answered_boxes(line["completion"]), reading.space, reading)

    def _in_pixels(self, line: Line, boxes: list[Box], space: str, reading: Reading) -> list[list[float]]:
        """The boxes in pixels of the original image, [] where a size that this takes is not known."""
        image = self.images[_paths(line)[reading.image_index]]
        size = _at(line.get("image_sizes"), reading.image_index) or (image.width, image.height)
        resized = _at(line.get("resized_sizes"), reading.image_index)
        if space not in SPACES or not all(size) or (space == "resized" and not resized):
            return []
        return [[round(n, 1) for n in to_pixels(box, space, size, resized)] for box in boxes]


def readings(lines: Iterable[Line]) -> dict[str, Reading]:
    """How each task's boxes are read, told by the first of its lines that a box reward judges."""
    found: dict[str, Reading] = {}
    for line in lines:
        if (line.get("task") or "") not in found and (reading := _reading(line)):
            found[line.get("task") or ""] = reading
    return found


def _reading(line: Line) -> Reading | None:
    """How the line says that its boxes are read; None where it does not."""
    reading = line.get("boxes")
    if not isinstance(reading, dict):
        return None
    return Reading(
        reading.get("space", "pixels"), reading.get("solution_space", "pixels"), reading.get("image_index", 0)
    )


def _paths(line: Line) -> list[str]:
    return [path for path in line.get("images") or [] if isinstance(path, str)]


def _at(sizes: Any, index: int) -> tuple[int, int] | None:
    return tuple(sizes[index]) if sizes and -len(sizes) <= index < len(sizes) else None
