"""Images looked at before training: headers or every pixel, in threads, each file once, rows in order."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from omnirl_core.data.images import MAX_ASPECT_RATIO, image_size, open_image
from omnirl_core.data.record import DataError, Record

LEVELS = ("exists", "header", "pixels")
"""That the file is there; that it is an image of a size that models take; that every pixel can be decoded."""

_CHUNK = 64
_CHUNKS_AHEAD = 4  # a thread, so that rows do not pile up in memory


def picture_problem(path: str, level: str = "pixels") -> str | None:
    """What is wrong with an image that exists, or None; an image that passes `pixels` opens in training too."""
    try:
        width, height = image_size(path)
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            return (
                f"image {path!r} is {width} x {height} pixels; processors refuse one side above {MAX_ASPECT_RATIO} "
                "times the other; crop it or drop the row"
            )
        if level == "pixels":
            open_image(path)
    except DataError as error:
        return str(error)
    return None


def with_checked_images(
    rows: Iterable[Record | DataError], level: str, threads: int | None = None
) -> Iterator[Record | DataError]:
    """The rows in their order, those with a bad image as a DataError that names row and file.

    Pillow decodes without holding Python's lock, so threads use all cores; what is remembered of a file is a few
    bytes.
    """
    if level == "exists":
        yield from rows
        return
    n_threads = threads or min(32, cores())
    problems: dict[str, Future | str | None] = {}
    waiting: deque[list[Record | DataError]] = deque()
    broken: DataError | None = None
    with ThreadPoolExecutor(n_threads) as pool:
        for chunk in _chunks(rows):
            if isinstance(chunk, DataError):
                broken = chunk
                break
            new = dict.fromkeys(
                path
                for row in chunk
                if isinstance(row, Record)
                for path in row.images
                if path not in problems
            )
            problems.update({path: pool.submit(picture_problem, path, level) for path in new})
            waiting.append(chunk)
            if len(waiting) >= _CHUNKS_AHEAD * n_threads:
                yield from _settled(waiting.popleft(), problems)
        while waiting:
            yield from _settled(waiting.popleft(), problems)
    if broken is not None:
        raise broken


def _chunks(rows: Iterable[Record | DataError]) -> Iterator[list[Record | DataError] | DataError]:
    """Lists of rows; last, where the rows break off, the error that they break off with."""
    chunk: list[Record | DataError] = []
    broken: DataError | None = None
    try:
        for row in rows:
            chunk.append(row)
            if len(chunk) == _CHUNK:
                yield chunk
                chunk = []
    except DataError as error:
        broken = error
    if chunk:
        yield chunk
    if broken is not None:
        yield broken


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _settled(
    chunk: list[Record | DataError], problems: dict[str, Future | str | None]
) -> Iterator[Record | DataError]:
    for row in chunk:
        if isinstance(row, Record):
            for path in row.images:
                problem = problems[path]
                if isinstance(problem, Future):
                    problem = problems[path] = problem.result()
                if problem is not None:
                    row = DataError(f"{row.source}: {problem}", row.source)
                    break
        yield row
