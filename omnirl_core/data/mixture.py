"""What data is read: files of any kind in READERS, saved and hub data sets, and YAML mixtures of them."""

import math
import os
import random
import re
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import yaml

from omnirl_core.data.columns import ColumnNames, checked_columns
from omnirl_core.data.json_reader import RawRow, count_jsonl, read_json, read_jsonl
from omnirl_core.data.record import DataError, Problems, shown
from omnirl_core.data.tables import count_parquet, is_saved, read_csv, read_parquet
from omnirl_core.type_checks import nearest
from omnirl_core.yaml_loader import YamlFault, read_yaml

READERS: dict[str, Callable[[str, Container[int] | None], Iterator[RawRow]]] = {
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
    ".csv": read_csv,
    ".tsv": read_csv,
}
"""Ending -> reader of the rows of a file, all of them or those of the given indices. A new format is a row here."""
COUNTERS: dict[str, Callable[[str], int]] = {".jsonl": count_jsonl, ".parquet": count_parquet}
"""Ending -> what counts the rows without parsing them."""

_STRATEGY = re.compile(r"(?:(first|end|random):)?([0-9]+(?:\.[0-9]+)?)(%?)")
_PLACES = {"json_path", "path", "hub"}
_ENTRY_KEYS = ("path", "json_path", "hub", "sampling_strategy", "image_root", "task", "split", "config", "columns")


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


def check_file(place: str) -> None:
    kinds = f"{', '.join(READERS)} or .yaml"
    if not os.path.exists(place):
        raise DataError(f"{place}: no such data file; a data file is {kinds}, a hub name is org/name")
    if is_saved(place):
        return
    if not os.path.isfile(place) or not place.endswith(tuple(READERS)):
        kind = "a file of unknown kind" if os.path.isfile(place) else "a folder"
        raise DataError(f"{place}: {kind}; give a {kinds} file")


def mixture(path: str, image_root: str | None, task: str | None, columns: ColumnNames) -> list[Source]:
    """The entries of a YAML mixture; all its mistakes in one DataError. Paths start at its folder."""
    problems = Problems()
    sources = []
    entries, in_order = _top_level(path, problems)
    for line, entry in _entries(path, entries, problems):
        try:
            given = Source("", image_root, task, columns=columns)
            sources.append(replace(_entry_source(entry, os.path.dirname(path), given), in_order=in_order))
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
    image_root = given.image_root
    if "image_root" in entry:
        image_root = os.path.join(folder, os.path.expanduser(entry["image_root"]))
    return Source(
        place,
        image_root,
        entry.get("task", given.task),
        Sampling.parse(entry.get("sampling_strategy", "all")),
        on_hub,
        entry.get("config"),
        entry.get("split", "train"),
        columns=checked_columns(entry["columns"]) if "columns" in entry else given.columns,
    )


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
