"""Where rows come from: files of any kind in READERS, saved data sets, hub data sets, YAML mixtures; `load_records`."""

import logging
import math
import os
import random
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import islice
from typing import Any, Unpack

import yaml

from omnirl_core.data.columns import ColumnNames, checked_columns, renamed
from omnirl_core.data.images import ImageFiles, RowRules, Rules, with_checked_images
from omnirl_core.data.json_reader import RawRow
from omnirl_core.data.record import DataError, Problems, Record, RowContext, image_folder, record_from_row, shown
from omnirl_core.data.tables import COUNTERS, READERS, check_file, hub_rows, is_saved, open_hub, open_saved
from omnirl_core.types import nearest
from omnirl_core.yaml_loader import YamlFault, read_yaml

logger = logging.getLogger(__name__)

_STRATEGY = re.compile(r"(?:(first|end|random):)?([0-9]+(?:\.[0-9]+)?)(%?)")
_PLACES = {"json_path", "path", "hub"}
_ENTRY_KEYS = ("path", "json_path", "hub", "sampling_strategy", "image_root", "task", "split", "config", "columns")
_HUB_NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?::([\w.-]+))??(?::(\w+(?:\[[-\d%:]+\])?))?")
"""`org/name`, `org/name:split` or `org/name:config:split`; a split may be cut as `datasets` cuts it: `train[:90%]`."""


@dataclass(frozen=True)
class Sampling:
    """A sampling strategy. `random` draws without replacement and keeps the file's order.

    >>> Sampling.parse("end:2").indices(5, seed="0")
    range(3, 5)
    >>> Sampling.parse("first:10%").size(95)  # rounded up
    10
    >>> Sampling.parse("10%") == Sampling.parse("random:10%")
    True
    """

    how: str = "first"
    amount: Fraction | None = None  # None: all
    percent: bool = False

    @classmethod
    def parse(cls, text: str) -> "Sampling":
        """The strategy that a YAML entry names; ValueError lists what there is."""
        if text == "all":
            return cls()
        match = _STRATEGY.fullmatch(text)
        if match:
            how, number, percent = match.groups()
            amount = Fraction(number)
            if percent and amount <= 100:
                return cls(how or "random", amount, percent=True)
            if how and not percent and amount.denominator == 1 and "." not in number:
                return cls(how, amount)
        known = "all, first:N, end:N, random:N or N%, where N is a whole number or a percentage up to 100%"
        raise ValueError(f"sampling_strategy {text!r} is none of {known}")

    def size(self, n_rows: int) -> int:
        """How many of `n_rows` rows it takes: never more than there are."""
        if self.amount is None:
            return n_rows
        return min(n_rows, math.ceil(self.amount * n_rows / 100) if self.percent else int(self.amount))

    def indices(self, n_rows: int, seed: str) -> range | frozenset[int]:
        """The indices it takes; the same for the same seed."""
        size = self.size(n_rows)
        if self.how == "end":
            return range(n_rows - size, n_rows)
        if self.how == "random" and size < n_rows:
            return frozenset(random.Random(seed).sample(range(n_rows), size))
        return range(size)

    @property
    def needs_count(self) -> bool:
        """Whether the rows must be counted before the first one can be taken."""
        return self.amount is not None and (self.percent or self.how != "first")


@dataclass(frozen=True)
class Source:
    """One file or hub data set, and how its rows are taken."""

    place: str  # path of a file or saved data set, or a name on the hub
    image_root: str | None = None
    task: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    on_hub: bool = False
    config: str | None = None
    split: str = "train"
    in_order: bool = False
    """Of a mixture whose rows follow from easy to hard, over all of its sources."""
    columns: ColumnNames = field(default_factory=dict)


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
    sources: Iterable[Source], *, seed: int = 0, read_on: bool = False, allow_outside_image_root: bool = False
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
    n_rows, named = 0, [source.place, source.config, source.split if source.split != "train" else None]
    name = ":".join(filter(None, named))  # as one would ask for it: rows of two splits are told apart
    for row in raw_rows(source, seed):
        n_rows += 1
        where = f"{name}:{row.place}"
        if row.fault:
            yield DataError(f"{where}: {row.fault}", where)
            continue
        try:
            yield record_from_row(renamed(row.value, source.columns), where, context)
        except DataError as error:
            message = str(error) if str(error).startswith(where) else f"{where}: {error}"
            yield DataError(message, where)
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
    yield from islice(rows(keep), len(keep))  # the rest of the file is not read


# -- YAML mixtures


def mixture(path: str, image_root: str | None, task: str | None, columns: ColumnNames) -> list[Source]:
    """The entries of a YAML mixture; all its mistakes in one DataError. Paths start at its folder."""
    problems = Problems()
    sources = []
    entries, in_order = _top_level(path, problems)
    for line, entry in _entries(path, entries, problems):
        try:
            given = Source("", image_root, task, in_order=in_order, columns=columns)
            sources.append(_entry_source(entry, os.path.dirname(path), given))
        except ValueError as error:
            problems.add(f"{path}:{line}: {error}")
    if problems.count:
        raise DataError(str(problems))
    if not sources:
        raise DataError(f"{path}: no entries under 'datasets'")
    return sources


def _entry_source(entry: dict[str, Any], folder: str, given: Source) -> Source:
    """The source of an entry; what it does not say is as `given`."""
    unknown = [key for key in entry if key not in _ENTRY_KEYS]
    if unknown:
        raise DataError(f"unknown key {unknown[0]!r}{nearest(unknown[0], _ENTRY_KEYS)}")
    if len(_PLACES & entry.keys()) != 1:
        raise DataError("an entry needs one of 'json_path', 'path' and 'hub'")
    [kind] = _PLACES & entry.keys()
    on_hub, place = kind == "hub", entry[kind]
    if not on_hub:
        place = os.path.join(folder, os.path.expanduser(place))
        check_file(place)
        only_hub = [key for key in ("split", "config") if key in entry]
        if only_hub:
            raise DataError(f"{only_hub[0]!r} is for hub data sets only")
    own: dict[str, Any] = {name: entry[name] for name in ("task", "config", "split") if name in entry}
    if "image_root" in entry:
        own["image_root"] = os.path.join(folder, os.path.expanduser(entry["image_root"]))
    sampling = Sampling.parse(entry.get("sampling_strategy", "all"))
    if "columns" in entry:
        own["columns"] = checked_columns(entry["columns"])
    return replace(given, place=place, on_hub=on_hub, sampling=sampling, **own)


def _top_level(path: str, problems: Problems) -> tuple[yaml.SequenceNode, bool]:
    """The entries under `datasets`, and whether `order` is `curriculum`."""
    try:
        top = read_yaml(path).root
    except YamlFault as error:
        raise DataError(error.at(path)) from None
    pairs = [(key.value, value) for key, value in top.value] if isinstance(top, yaml.MappingNode) else []
    given = dict(pairs)
    entries, order = given.get("datasets"), given.get("order")
    if len(pairs) != len(given) or set(given) - {"datasets", "order"} or not isinstance(entries, yaml.SequenceNode):
        found = f"the keys {[key for key, _ in pairs]}" if pairs else "no keys"
        raise DataError(f"{path}:1: expected one key, 'datasets', with a list of entries; found {found}")
    if order is not None and order.value != "curriculum":
        line = order.start_mark.line + 1
        problems.add(
            f"{path}:{line}: order {shown(order.value)} is not 'curriculum'; leave it out for the files' order"
        )
    return entries, order is not None


def _entries(path: str, entries: yaml.SequenceNode, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, keys and values as written) of each entry."""
    for node in entries.value:
        line = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            yield line, _entry(path, node, problems)
        else:
            problems.add(f"{path}:{line}: an entry is '- json_path: ...', found {shown(node.value)}")


def _entry(path: str, node: yaml.MappingNode, problems: Problems) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for key, value in node.value:
        where = f"{path}:{key.start_mark.line + 1}"
        if key.value in entry:
            problems.add(f"{where}: {key.value!r} appears twice; keep one")
        if key.value == "columns":
            entry["columns"] = yaml.SafeLoader("").construct_object(value, deep=True)
        elif not isinstance(value, yaml.ScalarNode):
            problems.add(f"{where}: {key.value!r} must be one value")
        elif value.tag != "tag:yaml.org,2002:null":  # an empty value is as good as none
            entry[key.value] = value.value
    return entry
