"""Held-out score over the seconds of a run, for dynamic_sampling.py and time_to_score.py."""

import math
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from transformers import TrainerCallback

from omnirl_tools.evaluation.score import evaluate

Point: TypeAlias = tuple[float, float]
"""Seconds and score."""


@dataclass
class Curve(TrainerCallback):
    """Held-out score, greedy, over the CPU seconds that this process has trained; evaluation is not counted.

    Evaluates before the first step, then every `every_steps` steps, and every `every_s` seconds of training. The run
    ends after `seconds` of training.
    """

    held_out: list[dict[str, Any]]
    rewards: list[Any]
    max_new_tokens: int
    every_steps: float = math.inf
    every_s: float = math.inf
    seconds: float = math.inf
    trainer: Any = None
    points: list[Point] = field(default_factory=list)
    spent: float = 0.0
    _begun: float = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._measure()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begun = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.spent += time.process_time() - self._begun
        ends = self.spent >= self.seconds
        control.should_training_stop |= ends
        if ends or state.global_step % self.every_steps == 0 or self.spent >= len(self.points) * self.every_s:
            self._measure()
            score = self.points[-1][1]
            print(f"step {state.global_step}: {self.spent:.0f} s, {score:.3f}", file=sys.stderr, flush=True)

    def _measure(self) -> None:
        model, state = self.trainer.model, torch.get_rng_state()
        lines = evaluate(
            model, self.trainer.processing_class, self.held_out, self.rewards,
            max_new_tokens=self.max_new_tokens, batch_size=48,
        )  # fmt: skip
        torch.set_rng_state(state)
        model.train()
        self.points.append((self.spent, statistics.mean(line["score"] for line in lines)))


def means(points: list[Point]) -> list[Point]:
    """Of three scores in a row, at the seconds of the last."""
    return [(points[i][0], statistics.mean(v for _, v in points[i - 2 : i + 1])) for i in range(2, len(points))]


def seconds_to(points: list[Point], mark: float) -> float:
    """Seconds of the first mean of three scores at or above the mark; infinity where none is."""
    return next((spent for spent, value in means(points) if value >= mark), math.inf)
