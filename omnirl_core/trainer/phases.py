"""Where the time of a step goes: the rollout, the rewards, what prepares the loss, the training itself."""

import time
from collections import defaultdict
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

ROLLOUT, SCORE, PREPARE, TRAIN = PHASES = ("rollout", "score", "prepare", "train")


class PhaseClock(TrainerCallback):
    """Seconds of each optimizer step by phase, into the log as `time/rollout` and so on; their sum is the step.

    `rollout` is generation, `score` the rewards, `prepare` the rest of making a batch (pictures opened, log-probs
    of the old policy and the reference), `train` forward, backward and the optimizer. Each process times itself;
    the log is the first one's. A phase that a step does without (`num_iterations` above 1) counts 0.
    """

    def __init__(self, metrics: MutableMapping[str, list[float]]):
        self._metrics = metrics
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._inner = 0.0
        self._begun: float | None = None

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Count the time of the block under this phase, less what phases within it count."""
        begun, outer, self._inner = time.perf_counter(), self._inner, 0.0
        try:
            yield
        finally:
            whole = time.perf_counter() - begun
            self._spent[phase] += whole - self._inner
            self._inner = outer + whole

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begun = time.perf_counter()
        self._spent.clear()  # of an evaluation since the last step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._begun is None:
            return
        whole = time.perf_counter() - self._begun
        self._spent[TRAIN] = whole - sum(self._spent.values())
        for phase in PHASES:
            self._metrics[f"time/{phase}"].append(self._spent[phase])
