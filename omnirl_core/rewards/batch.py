"""What the rewards of one batch share: threads for scorers that wait, the scores of a gate, and time for runaways."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from operator import is_
from typing import Any

KEPT = 16  # rewards of a file whose last batch is kept
Batch = Sequence[tuple[Any, ...]]
"""Of each row what its score depends on."""


def in_threads(score: Callable[[int], float | None], count: int, at_a_time: int) -> list[float | None]:
    """`score(i)` for i below `count`, in their order, `at_a_time` in threads; the first error is raised."""
    if min(count, at_a_time) <= 1:
        return [score(i) for i in range(count)]
    with ThreadPoolExecutor(min(count, at_a_time), "omnirl-reward") as pool:
        return list(pool.map(score, range(count)))


@dataclass
class Runaways:
    """CPU seconds that answers which ran over their limit took, in one batch."""

    seconds: float = 0.0


_runaways: ContextVar[Runaways | None] = ContextVar("runaways", default=None)


@contextmanager
def counted_runaways() -> Iterator[None]:
    """One batch: what runs over its limit in it is counted together."""
    token = _runaways.set(Runaways())
    try:
        yield
    finally:
        _runaways.reset(token)


def runaways() -> Runaways:
    """The count of this batch; one of its own for a sample that is judged alone."""
    return _runaways.get() or Runaways()


class RecentScores:
    """The last scores of each reward, so that a gate that is a reward of its own judges a batch once.

    A batch is known by its values being the very same objects. A reward's own call takes what it judged as a
    gate, and a gate what it judged in its own call; a second call of its own judges anew.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[object, tuple[Batch, bool, list[float | None]]] = {}  # batch, whether as a gate, scores

    def take(self, reward: object, batch: Batch, as_gate: bool) -> list[float | None] | None:
        """The scores of this batch, None where they have to be judged."""
        with self._lock:
            known, was_gate, scores = self._kept.get(reward, ((), False, []))
            if not _same_objects(known, batch):
                return None
            if not as_gate:
                self._kept[reward] = batch, False, scores
            return list(scores) if as_gate or was_gate else None

    def keep(self, reward: object, batch: Batch, as_gate: bool, scores: list[float | None]) -> None:
        """Keep the scores of a batch in place of the reward's last ones."""
        with self._lock:
            self._kept.pop(reward, None)
            self._kept[reward] = batch, as_gate, list(scores)
            if len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]


def _same_objects(some: Batch, others: Batch) -> bool:
    return len(some) == len(others) and all(
        len(one) == len(other) and all(map(is_, one, other)) for one, other in zip(some, others, strict=True)
    )


recent_scores = RecentScores()
