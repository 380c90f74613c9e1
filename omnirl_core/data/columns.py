"""Columns of foreign data under the names that training knows: `columns: {problem: question, solution: answer}`."""

from collections.abc import Mapping
from typing import TypeAlias

from omnirl_core.data.record import DataError, shown

Columns: TypeAlias = Mapping[str, str | list[str]]
"""Our name -> theirs, with dots into objects and lists (`answers.text.0`); for `images` also a list of names."""


def checked_columns(columns: object) -> Columns:
    """The mapping; ValueError where it is none of names."""
    if not isinstance(columns, Mapping) or not all(isinstance(ours, str) and ours for ours in columns):
        raise ValueError(f"columns: {shown(columns)} is no mapping; write {{problem: question, solution: answer}}")
    for ours, theirs in columns.items():
        several = isinstance(theirs, list) and ours in ("image", "images")
        names = theirs if several else [theirs]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"columns: {ours}: {shown(theirs)} must be the name of a column")
    return dict(columns)


def renamed(row: object, columns: Columns) -> object:
    """The row with its columns under our names; DataError where one is missing.

    >>> renamed({"question": "How many?", "answers": {"text": ["3", "three"]}},
    ...     {"problem": "question", "solution": "answers.text.0"})
    {'problem': 'How many?', 'solution': '3', 'answers': {'text': ['3', 'three']}}
    """
    if not isinstance(row, Mapping) or not columns:
        return row
    found: dict[str, object] = {}
    taken: set[str] = set()
    for ours, theirs in columns.items():
        names = [theirs] if isinstance(theirs, str) else theirs
        values = [_value(row, name, ours) for name in names]
        found[ours] = values[0] if isinstance(theirs, str) else [value for value in values if value is not None]
        taken.update(names)
    clash = [ours for ours in columns if ours in row and ours not in taken]
    if clash:
        raise DataError(f"columns: {clash[0]!r} is a column of the data already; map that one to another name too")
    return found | {name: value for name, value in row.items() if name not in taken}


def _value(row: Mapping[str, object], name: str, ours: str) -> object:
    if name in row:
        return row[name]
    value: object = row
    for part in name.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            keys = ", ".join(map(str, row))
            raise DataError(f"columns: {ours}: no column {name!r}; there are: {keys[:200]}")
    return value
