"""Work on chunks of a stream in several processes: in order, with a bounded number of chunks in flight."""

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_work: Callable | None = None


class WorkerDied(RuntimeError):
    """A worker process ended while it had `chunk`."""

    def __init__(self, chunk: list):
        super().__init__(f"a worker process died over {len(chunk)} items")
        self.chunk = chunk


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items; the last may be shorter.

    >>> list(chunks(range(5), 2))
    [[0, 1], [2, 3], [4]]
    """
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def in_order(work: Callable[[list[T]], R], stream: Iterable[list[T]], workers: int) -> Iterator[R]:
    """`work(chunk)` for each chunk of the stream, in its order; with one worker in this process.

    At most four chunks a worker are read ahead, so memory does not grow with the stream. `work` reaches the
    workers once, when they start.
    """
    if workers <= 1:
        yield from map(work, stream)
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork
    # fork shares what is loaded; where it is not safe (macOS), workers load it again
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting: deque[tuple[list[T], Future]] = deque()
    with ProcessPoolExecutor(workers, context, _start, (work,)) as pool:
        for chunk in stream:
            waiting.append((chunk, pool.submit(_run, chunk)))
            if len(waiting) >= 4 * workers:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())


def _result(chunk: list[T], future: Future[R]) -> R:
    try:
        return future.result()
    except BrokenProcessPool:
        raise WorkerDied(chunk) from None


def _start(work: Callable) -> None:
    global _work
    _work = work


def _run(chunk: list) -> Any:
    assert _work is not None
    return _work(chunk)
