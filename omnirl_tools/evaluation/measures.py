"""What is measured on graded lines (score, accuracy, each reward), and on which groups of rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from omnirl_tools.evaluation.lines import weighted_mean

FORMAT_REWARDS = ("think_format", "length_band")
"""Rewards for how an answer is written, in lines that do not say which of theirs are; accuracy leaves them out."""

Line = dict[str, Any]
Measure = Callable[[Line], float | None]


def measures(
    lines: Sequence[Line],
    format_rewards: Sequence[str] = FORMAT_REWARDS,
    weights: Mapping[str, float] | None = None,
) -> dict[str, Measure]:
    """Return how to read each measure off a line, in the order score, accuracy, rewards.

    `format_rewards` are left out of accuracy; as long as it is the default, a line's own `format_rewards` (those
    that compare with no solution, whatever their name) are. `weights` default to those that a line carries.
    """
    by_line = tuple(format_rewards) == FORMAT_REWARDS
    names = list(dict.fromkeys(name for line in lines for name in line["rewards"]))

    def score(line: Line) -> float | None:
        return line["score"] if weights is None else weighted_mean(line["rewards"], weights)

    def accuracy(line: Line) -> float | None:
        form = line.get("format_rewards", format_rewards) if by_line else format_rewards
        content = {name: value for name, value in line["rewards"].items() if name not in form}
        return weighted_mean(content, line.get("weights", {}) if weights is None else weights)

    def reward(name: str) -> Measure:
        return lambda line: line["rewards"].get(name)

    return {"score": score, "accuracy": accuracy} | {name: reward(name) for name in names}


def groups(lines: Sequence[Line]) -> list[tuple[str, str, np.ndarray]]:
    """Return (kind, name, mask of the lines) for all lines, then for each modality and each task."""
    found = [("all", "all", np.ones(len(lines), dtype=bool))]
    for kind in ("modality", "task"):
        labels = [line.get(kind) for line in lines]
        for label in sorted({label for label in labels if label}, key=_order):
            found.append((kind, label, np.array([other == label for other in labels])))
    return found


def _order(label: str) -> tuple[int, str]:
    modalities = ("text", "image", "multi-image")
    return (modalities.index(label) if label in modalities else 0, label)
