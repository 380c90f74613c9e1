"""Where rows come from: files, saved data sets, mixtures of them, or hub data sets; `load_records`."""

import logging
import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Unpack

from omnirl_core.data.columns import ColumnNames, checked_columns, renamed
from omnirl_core.data.images import ImageFiles, RowRules, Rules, with_checked_images
from omnirl_core.data.json_reader import RawRow
from omnirl_core.data.mixture import COUNTERS, READERS, Source, check_file, mixture
from omnirl_core.data.record import DataError, Problems, Record, RowContext, image_folder, record_from_row
from omnirl_core.data.tables import hub_rows, is_saved, open_hub, open_saved

logger = logging.getLogger(__name__)

_HUB_NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?::([\w.-]+))??(?::(\w+(?:\[[-\d%:]+\])?))?")
"""`org/name`, `org/name:split` or `org/name:config:split`; a split may be cut as `datasets` cuts it: `train[:90%]`."""


def load_records(
    path: str | os.PathLike[str],
    image_root: str | os.PathLike[str] | None = None,
    *,
    task: str | None = None,
    split: str = "train",
    columns: ColumnNames | None = None,
    seed: int = 0,
    **rules: Unpack[Rules],
) -> list[Record]:
    """All checked rows of a file (docs/data.md lists the formats), a YAML mixture, or a hub data set (`org/name`).

    `columns` maps our names to the data's: `{"problem": "question", "solution": "answer"}`. Relative image paths
    start at `image_root`, by default the folder of the data file. `task` is for rows that name none. `rules` are
    RowRules': bad rows raise one DataError, or with `on_bad_sample="skip"` are dropped, counted and logged.
    """
    sources = find_sources(path, image_root, task=task, split=split, columns=columns)
    return list(read_records(sources, RowRules(**rules), seed=seed))


def find_bad_rows(
    path: str | os.PathLike[str],
    image_root: str | os.PathLike[str] | None = None,
    *,
    task: str | None = None,
    split: str = "train",
    columns: ColumnNames | None = None,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
    **rules: Unpack[Rules],
) -> dict[str, str]:
    """Row id -> what is wrong, for every bad row of what `load_records` would read; images at level `pixels`.

    `share` (k, n): of the rows, look at the images of every n-th from the k-th on only. Processes that each take
    a share and put their answers together know all bad rows, and the same ones.
    """
    checks = RowRules(**(Rules(check_images="pixels") | rules))
    sources = find_sources(path, image_root, task=task, split=split, columns=columns)
    found = checked_rows(sources, seed=seed, allow_outside_image_root=checks.allow_outside_image_root)
    own = (row for n, row in enumerate(found) if n % share[1] == share[0] or isinstance(row, DataError))
    checked = with_checked_images(own, checks.check_images)
    return {row.row_id: str(row) for row in checked if isinstance(row, DataError)}


def find_sources(
    path: str | os.PathLike[str],
    image_root: str | os.PathLike[str] | None = None,
    *,
    task: str | None = None,
    split: str = "train",
    columns: ColumnNames | None = None,
) -> list[Source]:
    """The sources that a path names: itself, or the entries of a YAML mixture."""
    columns = checked_columns(columns or {})
    place = os.path.expanduser(os.fspath(path))
    root = None if image_root is None else os.path.expanduser(os.fspath(image_root))
    if place.endswith((".yaml", ".yml")) and os.path.isfile(place):
        return mixture(place, root, task, columns)
    hub = _HUB_NAME.fullmatch(place)
    if os.path.exists(place) or not hub or place.endswith((*READERS, ".yaml", ".yml")):
        check_file(place)
        return [Source(place, root, task, columns=columns)]
    name, config, own_split = hub.groups()
    return [Source(name, root, task, on_hub=True, config=config, split=own_split or split, columns=columns)]


def read_records(sources: Iterable[Source], rules: RowRules, *, seed: int = 0) -> Iterator[Record]:
    """The good rows of all sources in order; then DataError if there were bad ones, or none good."""
    sources = list(sources)
    records = _good_records(sources, rules, seed)
    yield from _easy_to_hard(records) if any(source.in_order for source in sources) else records


def _easy_to_hard(records: Iterable[Record]) -> list[Record]:
    """By their `pass_rate`, the highest first; those of one rate stay in their order."""
    found = list(records)
    for one in found:
        if not isinstance(one.extra.get("pass_rate"), int | float):
            fix = "`omnirl select` writes rows that have it; or remove `order`"
            raise DataError(f"{one.source}: no number as 'pass_rate', by which `order: curriculum` sorts; {fix}")
    return sorted(found, key=lambda one: -one.extra["pass_rate"])


def _good_records(sources: Sequence[Source], rules: RowRules, seed: int) -> Iterator[Record]:
    problems, n_good = Problems(), 0
    rows = checked_rows(sources, seed=seed, allow_outside_image_root=rules.allow_outside_image_root)
    try:
        for row in rules.apply(rows):
            if isinstance(row, DataError):
                problems.add(str(row))
            else:
                n_good += 1
                yield row
    except DataError as error:  # a whole file cannot be read: nothing to skip
        raise DataError("\n".join([str(error), *([str(problems)] if problems.count else [])])) from error
    n_rows = n_good + problems.count
    if problems.count and rules.on_bad_sample == "error":
        raise DataError(f"{problems}\n{problems.count} of {n_rows} rows are bad; on_bad_sample: skip drops them")
    if problems.count:
        logger.warning("dropped %d of %d rows (on_bad_sample: skip):\n%s", problems.count, n_rows, problems)
    if not n_good:
        raise DataError(f"no {'good ' if problems.count else ''}rows in {', '.join(s.place for s in sources)}")


def checked_rows(
    sources: Iterable[Source],
    *,
    seed: int = 0,
    read_on: bool = False,
    allow_outside_image_root: bool = False,
) -> Iterator[Record | DataError]:
    """Every row of all sources in order: a Record, or a DataError with its `row_id` that says what is wrong with it.

    Of images, only that their files exist is looked at. A file that cannot be read on raises its DataError; with
    `read_on` that is one more item, and the next source follows.
    """
    files = ImageFiles()
    for number, source in enumerate(sources):
        context = _context(source, files, allow_outside_image_root)
        try:
            yield from _source_rows(source, f"{seed}:{number}", context)
        except DataError as error:
            if not read_on:
                raise
            yield error


def _context(source: Source, files: ImageFiles, allow_outside: bool) -> RowContext:
    root = source.image_root if source.image_root is not None else os.path.dirname(source.place) * (not source.on_hub)
    absolute = os.path.abspath(root)
    context = RowContext(absolute, root or ".", files, source.task)
    if allow_outside:
        return context
    roots = [os.path.realpath(absolute), os.path.realpath(image_folder())]
    return replace(context, outside=partial(files.outside, roots=roots))


def _source_rows(source: Source, seed: str, context: RowContext) -> Iterator[Record | DataError]:
    n_rows = 0
    for row in raw_rows(source, seed):
        n_rows += 1
        where = f"{source.place}:{row.place}"
        if row.fault:
            yield DataError(f"{where}: {row.fault}", where)
            continue
        try:
            record = record_from_row(renamed(row.value, source.columns), where, context)
        except DataError as error:
            message = str(error) if str(error).startswith(where) else f"{where}: {error}"
            yield DataError(message, where)
        else:
            yield record
    amount = source.sampling.amount
    if amount is not None and not source.sampling.percent and n_rows < amount:
        logger.warning("%s has %d rows, %s were asked for; all are used", source.place, n_rows, amount)


def raw_rows(source: Source, seed: str = "") -> Iterator[RawRow]:
    """The rows that the source's strategy takes; counts them first only where it must."""
    ending = next((ending for ending in READERS if source.place.endswith(ending)), "")
    dataset = None
    if source.on_hub:
        dataset = open_hub(source.place, source.config, source.split)
    elif is_saved(source.place):
        dataset = open_saved(source.place)

    def rows(keep: Container[int] | None) -> Iterator[RawRow]:
        if dataset is not None:
            return hub_rows(dataset, keep)
        return READERS[ending](source.place, keep)

    sampling = source.sampling
    if sampling.amount is None:
        yield from rows(None)
        return
    if not sampling.needs_count:
        n_rows = int(sampling.amount)
    elif dataset is not None:
        n_rows = len(dataset)
    else:
        n_rows = COUNTERS[ending](source.place) if ending in COUNTERS else sum(1 for _ in rows(None))
    keep = sampling.indices(n_rows, seed)
    remaining = len(keep)
    if remaining:
        for row in rows(keep):
            yield row
            remaining -= 1
            if not remaining:  # the rest of the file is not read
                return
