"""Does each row's own reference earn full marks, and what do cheap hacks earn on the same rows?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omnirl_core.boxes import Size, resized_size
from omnirl_core.data import DataError, Record, image_size
from omnirl_core.rewards.reward import Reward, signature_of
from omnirl_core.text import answer_text, reference_texts
from omnirl_tools.checks.hacks import BLIND, Sample
from omnirl_tools.checks.reference import (
    box_setting,
    reads_boxes,
    reference_answers,
    reference_boxes_in_pixels,
    reference_completions,
    total,
)

FULL = 0.98
"""Rounded boxes and smoothed overlap may leave a reference a hair below 1.0."""


@dataclass(frozen=True)
class RewardFault:
    """Why a row's reference answer cannot earn full marks: `reward` is the one that refuses it."""

    row_id: str
    reward: str
    why: str

    def __str__(self) -> str:
        return f"{self.row_id}: {self.reward}: {self.why}"


@dataclass(frozen=True)
class Graded:
    """A row's scores on its best reference completion (None: the reward does not judge it), and its hacks' shares."""

    row_id: str
    task: str | None
    answer: str | None
    scores: Mapping[str, float | None]
    faults: tuple[RewardFault, ...]
    hacks: Mapping[str, float] = field(default_factory=dict)
    """Hack -> share of what the reference earns; empty for rows that were not picked for it."""
    payers: Mapping[str, str] = field(default_factory=dict)
    """Hack -> the reward that gives it most."""


@dataclass(frozen=True)
class PixelGrid:
    """How a Qwen-VL processor resizes images; None of it for other processors."""

    factor: int
    min_pixels: int
    max_pixels: int

    @classmethod
    def of(cls, processor: object) -> "PixelGrid | None":
        images: Any = getattr(processor, "image_processor", None)
        if not hasattr(images, "merge_size") or not hasattr(images, "patch_size"):
            return None
        size = images.size
        return cls(images.patch_size * images.merge_size, size["shortest_edge"], size["longest_edge"])

    def resized(self, size: Size) -> Size:
        return resized_size(size, self.factor, self.min_pixels, self.max_pixels)


@dataclass
class RewardCheck:
    """Grades rows as the run would; `count_tokens` is the policy's tokenizer, for lengths."""

    rewards: Sequence[Reward]
    grid: PixelGrid | None = None
    count_tokens: Callable[[str], list[int]] | None = None
    max_completion_length: int | None = None
    decoys: tuple[str, ...] = ()
    """Reference answers of other rows, for the hack that lists some."""
    frame: str = ""
    """How answers of the data begin, for the hack that says no more."""

    def many(self, rows: Sequence[tuple[Record, bool]]) -> list[Graded]:
        """The rows in order; True beside a row asks for its hacks' shares too."""
        return [self._grade(record, with_hacks) for record, with_hacks in rows]

    def _grade(self, record: Record, with_hacks: bool) -> Graded:
        rewards = [reward for reward in self.rewards if reward.applies_to(record.task)]
        try:
            columns = self._columns(record, rewards)
            answers = reference_answers(
                record.solution, rewards, columns.get("image_sizes", ()), columns.get("resized_sizes", ())
            )
            completion, answer, scores = self._best(record, rewards, answers, columns)
        except (
            DataError,
            ValueError,
        ) as error:  # an image that cannot be measured, a space without its size
            message = str(error).removeprefix(f"{record.source}: ")
            return Graded(record.source, record.task, None, {}, (RewardFault(record.source, "-", message),))
        faults = [
            *self._score_faults(record, rewards, completion, answer, scores),
            *_box_faults(record, rewards, columns),
            *self._length_faults(record, completion),
        ]
        hacked = with_hacks and answer is not None and not faults
        hacks, payers = self._hacks(record, rewards, columns, answer or "", scores) if hacked else ({}, {})
        return Graded(record.source, record.task, answer, scores, tuple(faults), hacks, payers)

    def _best(
        self, record: Record, rewards: list[Reward], answers: list[str], columns: dict[str, Any]
    ) -> tuple[str, str | None, dict[str, float | None]]:
        """The completion of the reference that earns most, its answer, and its scores."""
        best: tuple[float, str, str | None, dict[str, float | None]] | None = None
        most = sum(reward.weight for reward in rewards if reward.weight > 0)
        for answer in answers or [""]:
            for completion in reference_completions(answer, rewards):
                scores = self._scores(completion, record, rewards, columns)
                earned = total(scores, rewards)
                if best is None or earned > best[0] + 1e-9:
                    best = (earned, completion, answer or None, scores)
                if earned >= most - 1e-9:
                    return best[1:]
        assert best is not None  # reference_completions yields some
        return best[1:]

    def _scores(
        self, completion: str, record: Record, rewards: list[Reward], columns: dict[str, Any]
    ) -> dict[str, float | None]:
        ids = {"completion_ids": self.count_tokens(completion)} if self.count_tokens else {}
        return {reward.name: reward.score(completion, record.solution, **columns, **ids) for reward in rewards}

    def _columns(self, record: Record, rewards: list[Reward]) -> dict[str, Any]:
        """What a reward finds beside the solution, as the trainer gives it."""
        columns = {**record.extra, "task": record.task, "problem": record.problem}
        if any("image_sizes" in signature_of(reward.scorer).keywords for reward in rewards):
            sizes = [image_size(path, record.source) for path in record.images]
            columns["image_sizes"] = sizes
            if self.grid is not None:
                columns["resized_sizes"] = [self.grid.resized(size) for size in sizes]
        return columns

    def _score_faults(
        self,
        record: Record,
        rewards: list[Reward],
        completion: str,
        answer: str | None,
        scores: dict[str, float | None],
    ) -> list[RewardFault]:
        faults = []
        judges = [reward for reward in rewards if signature_of(reward.scorer).takes_solution]
        if not judges:
            return [RewardFault(record.source, "-", f"no reward judges answers of task {record.task!r}")]
        if all(scores[reward.name] is None for reward in judges):
            if any(reward.needs_policy for reward in judges) and reference_texts(record.solution):
                return []  # judged in training alone
            names = ", ".join(reward.name for reward in judges)
            return [RewardFault(record.source, names, f"cannot read the reference {_shown(record.solution)}")]
        if answer is None:  # judged, but not by an answer that could be written: the tests of a program
            return []
        for reward in rewards:
            score = scores[reward.name]
            if score is not None and reward.weight > 0 and score < FULL:
                reason = _reason(reward, completion, answer)
                why = f"{score:.2f} of 1.00 for its own reference {_shown(answer)}; {reason}"
                faults.append(RewardFault(record.source, reward.name, why))
            elif score is not None and reward.weight < 0 and score > 1 - FULL:
                why = f"takes {-reward.weight * score:.2f} off its own reference {_shown(answer)}"
                faults.append(RewardFault(record.source, reward.name, why))
        return faults

    def _length_faults(self, record: Record, completion: str) -> list[RewardFault]:
        if self.count_tokens is None or self.max_completion_length is None:
            return []
        n_tokens = len(self.count_tokens(completion))
        if n_tokens < self.max_completion_length:  # the end-of-turn token needs a place too
            return []
        cut = f"is cut at max_completion_length {self.max_completion_length:,}"
        why = f"the reference takes {n_tokens:,} tokens and {cut}"
        return [RewardFault(record.source, "-", why)]

    def _hacks(
        self,
        record: Record,
        rewards: list[Reward],
        columns: dict[str, Any],
        answer: str,
        scores: dict[str, float | None],
    ) -> tuple[dict[str, float], dict[str, str]]:
        most = total(scores, rewards)
        if most <= 0 or any(reward.needs_policy for reward in rewards):  # of form alone all would earn everything
            return {}, {}
        decoys = tuple(decoy for decoy in self.decoys if decoy != answer)
        image = next(iter(columns.get("image_sizes", ())), (640, 480))
        sample = Sample(record.problem, record.solution, answer, decoys, record.task, image, frame=self.frame)
        shares, payers = {}, {}
        for name, build in BLIND.items():
            earned = self._scores(build(sample), record, rewards, columns)
            shares[name] = total(earned, rewards) / most
            payers[name] = max(rewards, key=lambda one: one.weight * (earned.get(one.name) or 0)).name
        return shares, payers


def _box_faults(record: Record, rewards: list[Reward], columns: dict[str, Any]) -> list[RewardFault]:
    """Reference boxes that lie outside of their image: a sign of the wrong coordinate space."""
    faults = []
    sizes = columns.get("image_sizes", ())
    for reward in rewards:
        index = box_setting(reward, "image_index") if reads_boxes(reward) else None
        if index is None or not -len(sizes) <= index < len(sizes):
            continue
        width, height = sizes[index]
        for reference in reference_boxes_in_pixels(record.solution, reward, sizes, columns.get("resized_sizes", ())):
            x1, y1, x2, y2 = reference.box
            if min(x1, y1) < -1 or x2 > width + 1 or y2 > height + 1:
                shown = ", ".join(f"{x:g}" for x in reference.box)
                why = f"reference box [{shown}] lies outside of its image of {width} x {height}; check solution_space"
                faults.append(RewardFault(record.source, reward.name, why))
                break
    return faults


def _reason(reward: Reward, completion: str, answer: str) -> str:
    read = answer_text(completion)
    if reward.reads == "answer" and read != answer:
        return f"the parser reads {_shown(read)}"
    if reward.gates:
        return f"gated by {', '.join(gate.name for gate in reward.gates)}"
    settings = ", ".join(f"{name}: {value}" for name, value in reward.settings.items())
    return f"with its settings ({settings})" if settings else "with its default settings"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
