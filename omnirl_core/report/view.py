"""From the lines of a run's folder to what its report shows of them, ready to be written as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnirl_core.boxes import SPACES
from omnirl_core.evaluation.lines import finite, modality, weighted_mean
from omnirl_core.report.boxes import predicted_boxes, true_boxes
from omnirl_core.report.pictures import Picture
from omnirl_core.report.sample import Group
from omnirl_core.types import Box

MOST_CHARACTERS = 6000

Line = dict[str, Any]


@dataclass(frozen=True)
class View:
    """How lines are shown: with these pictures and reward weights, boxes read in this space."""

    pictures: Mapping[str, Picture]
    weights: Mapping[str, float]
    box_space: str | None = None

    def row(self, before: Line | None, after: Line | None) -> dict[str, Any]:
        """One held-out row with its answers before and after training; either may not be there yet."""
        answers = {"before": before and self._answer(before), "after": after and self._answer(after)}
        return self._question(before or after or {}) | answers

    def group(self, group: Group) -> dict[str, Any]:
        """One prompt at one step with its completions."""
        answers = [self._answer(line) for line in group.lines]
        shown = {"step": group.step, "phase": group.phase, "answers": answers}
        return self._question(group.lines[0]) | shown

    def _question(self, line: Line) -> dict[str, Any]:
        images = _paths(line)
        problem = line.get("problem") or line.get("prompt") or ""
        solution = line.get("solution")
        return {
            "id": str(line.get("row_id") or ""),
            "task": line.get("task") or "",
            "modality": line.get("modality") or modality(len(images)),
            "images": [self.pictures[path].key for path in images if path in self.pictures],
            "problem": str(problem)[:MOST_CHARACTERS],
            "solution": solution if isinstance(solution, str) or solution is None else finite(solution),
            "boxes": _rounded(true_boxes(solution)) if images else [],
        }

    def _answer(self, line: Line) -> dict[str, Any]:
        text = line["completion"]
        rewards = finite(line.get("rewards") or {})
        score = line["score"] if "score" in line else weighted_mean(rewards, self.weights)
        return {
            "text": text[:MOST_CHARACTERS],
            "cut": max(0, len(text) - MOST_CHARACTERS),
            "score": finite(score),
            "rewards": rewards,
            "advantage": finite(line.get("advantage")),
            "clipped": bool(line.get("clipped")),
            "tokens": line.get("n_tokens"),
            "boxes": self._predicted(line),
        }

    def _predicted(self, line: Line) -> list[list[float]]:
        """Boxes of the answer, on rows whose solution has boxes; [] where a size that it takes is unknown."""
        images = _paths(line)
        space = line.get("box_space") or self.box_space
        if space not in SPACES or not images or not true_boxes(line.get("solution")):
            return []
        picture = self.pictures.get(images[0])
        size = _first(line.get("image_sizes")) or (picture and (picture.width, picture.height))
        resized = _first(line.get("resized_sizes"))
        if not size or not all(size) or (space == "resized" and not resized):
            return []
        return _rounded(predicted_boxes(line["completion"], space, size, resized))


def _paths(line: Line) -> list[str]:
    return [path for path in line.get("images") or [] if isinstance(path, str)]


def _first(sizes: Any) -> tuple[int, int] | None:
    return tuple(sizes[0]) if sizes else None


def _rounded(boxes: list[Box]) -> list[list[float]]:
    return [[round(number, 1) for number in box] for box in boxes]
