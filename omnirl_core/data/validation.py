"""Samples and images looked at before training: how strictly, and what is done about bad ones."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from omnirl_core.data.images import MAX_ASPECT_RATIO, image_size, open_image
from omnirl_core.data.record import DataError, Record
from omnirl_core.type_checks import check_choice

ON_BAD_SAMPLE = ("error", "skip")
LEVELS = ("exists", "header", "pixels")
"""That the file is there; that it is an image of a size that models take; that every pixel can be decoded."""

_ROWS_AHEAD = 256
"""Rows a thread that wait for their images, so that they do not pile up in memory."""


@dataclass(frozen=True)
class RowRules:
    """How strict reading is.

    `on_bad_sample`: `error` refuses the data, `skip` leaves bad rows out. `check_images`: `exists`, `header` or
    `pixels`; `skip` always looks at all pixels, since an image that turned out bad during training could not be
    left out without changing what every process draws after it. `allow_outside_image_root`: images may lie
    anywhere. `bad_rows`: what `find_bad_rows` found, on all processes together; exactly these rows are then left
    out, and no image is looked at again.
    """

    on_bad_sample: str = "error"
    check_images: str = "exists"
    allow_outside_image_root: bool = False
    bad_rows: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        check_choice("on_bad_sample", self.on_bad_sample, ON_BAD_SAMPLE)
        check_choice("check_images", self.check_images, LEVELS)

    def apply(self, rows: Iterable[Record | DataError]) -> Iterator[Record | DataError]:
        """The rows, each bad one as a DataError."""
        if self.bad_rows is None:
            yield from with_checked_images(rows, "pixels" if self.on_bad_sample == "skip" else self.check_images)
            return
        for row in rows:
            row_id = row.source if isinstance(row, Record) else row.row_id
            if row_id in self.bad_rows:
                yield DataError(self.bad_rows[row_id], row_id)
            elif isinstance(row, DataError):  # another process, or a moment ago, found it good
                raise DataError(f"{row}; the check before found no fault: did the data change?", row_id)
            else:
                yield row


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

    Each file is looked at once. Pillow decodes without holding Python's lock, so threads use all cores; what is
    remembered of a file is a few bytes.
    """
    if level == "exists":
        yield from rows
        return
    n_threads = threads or min(32, cores())
    problems: dict[str, Future | str | None] = {}
    waiting: deque[Record | DataError] = deque()
    broken: DataError | None = None
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for row in rows:
                for path in row.images if isinstance(row, Record) else ():
                    if path not in problems:
                        problems[path] = pool.submit(picture_problem, path, level)
                waiting.append(row)
                if len(waiting) > _ROWS_AHEAD * n_threads:
                    yield _judged(waiting.popleft(), problems)
        except DataError as error:  # the rows break off; those before it come first
            broken = error
        for row in waiting:
            yield _judged(row, problems)
    if broken is not None:
        raise broken


def _judged(row: Record | DataError, problems: dict[str, Future | str | None]) -> Record | DataError:
    """The row, or the DataError of its first bad image."""
    for path in row.images if isinstance(row, Record) else ():
        problem = problems[path]
        if isinstance(problem, Future):
            problem = problems[path] = problem.result()
        if problem is not None:
            return DataError(f"{row.source}: {problem}", row.source)  # type: ignore[union-attr]
    return row


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
