"""Columns of a data set under our names: `columns` of recipes, mixtures and `load_dataset`."""

import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from omnirl_core.data.record import DataError, shown
from omnirl_core.types import nearest

ColumnNames: TypeAlias = Mapping[str, str | list[str] | Mapping[str, object]]
"""Our name -> theirs, with dots into objects and lists (`answers.text.0`); for `images` also a list of names.

A mapping makes the value: `{text: "{hint} {question}"}` of several columns, or `{column: answer}` with `pattern` (its
last match, or the group in it), `index_from` (the number of the first option; a number becomes its option's letter)
or `box: xywh` (x, y, width, height become corners).
"""
_MADE_OF = ("column", "pattern", "index_from", "box")
_BOXES = ("xywh",)
_FIELD = re.compile(r"\{([\w.-]+)\}")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def checked_columns(columns: object) -> ColumnNames:
    """The mapping; ValueError where it is none of names and of what a value is made of."""
    if not isinstance(columns, Mapping) or not all(isinstance(ours, str) and ours for ours in columns):
        raise ValueError(f"columns: {shown(columns)} is no mapping; write {{problem: question, solution: answer}}")
    for ours, theirs in columns.items():
        if isinstance(theirs, Mapping):
            if fault := _fault(theirs):
                raise ValueError(f"columns: {ours}: {fault}")
            continue
        several = isinstance(theirs, list) and ours in ("image", "images")
        names = theirs if several else [theirs]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"columns: {ours}: {shown(theirs)} must be the name of a column")
    return dict(columns)


def _fault(made: Mapping[str, object]) -> str | None:
    """What is wrong with the mapping that a value is made by."""
    if "text" in made:
        is_alone = len(made) == 1 and isinstance(made["text"], str) and made["text"]
        return None if is_alone else f"{shown(dict(made))}: `text` is a text with {{columns}}, and stands alone"
    if unknown := [str(key) for key in made if key not in _MADE_OF]:
        return f"unknown key {unknown[0]!r}{nearest(unknown[0], ('text', *_MADE_OF))}"
    column, pattern, first, box = (made.get(key) for key in _MADE_OF)
    if not isinstance(column, str) or not column:
        return f"{shown(dict(made))} needs `column`, the name of one, or `text`"
    if pattern is not None:
        try:
            groups = re.compile(pattern).groups if isinstance(pattern, str) else 2
        except re.error as error:
            return f"pattern {shown(pattern)} is no regular expression: {error}"
        if groups > 1:
            return f"pattern {shown(pattern)} must be a text with at most one group"
    if first is not None and (not isinstance(first, int) or isinstance(first, bool)):
        return f"index_from {shown(first)} must be the number of the first option: 0 or 1"
    if box is not None and box not in _BOXES:
        return f"box {shown(box)} is not a form that is converted{nearest(str(box), _BOXES)}"
    return None


def renamed(row: object, columns: ColumnNames) -> object:
    """The row with its columns under our names; DataError where one is missing, or its value cannot be made.

    >>> renamed({"question": "How many?", "answers": {"text": ["3", "three"]}},
    ...     {"problem": "question", "solution": "answers.text.0"})
    {'problem': 'How many?', 'solution': '3', 'answers': {'text': ['3', 'three']}}
    >>> renamed({"q": "2 + 2?", "hint": None, "a": "two and two #### 4"},
    ...     {"problem": {"text": "{hint} {q}"}, "solution": {"column": "a", "pattern": "#### (.+)"}})
    {'problem': '2 + 2?', 'solution': '4'}
    """
    if not isinstance(row, Mapping) or not columns:
        return row
    found: dict[str, object] = {}
    taken: set[str] = set()
    for ours, theirs in columns.items():
        taken.update(named_columns(theirs))
        if isinstance(theirs, str):
            found[ours] = _value(row, theirs, ours)
        elif isinstance(theirs, Mapping):
            found[ours] = _made(row, theirs, ours)
        else:
            values = [_value(row, name, ours) for name in theirs]
            found[ours] = [value for value in values if value is not None]
    clash = [ours for ours in columns if ours in row and ours not in taken]
    if clash:
        raise DataError(f"columns: {clash[0]!r} is a column of the data already; map that one to another name too")
    return found | {name: value for name, value in row.items() if name not in taken}


def named_columns(theirs: str | list[str] | Mapping[str, object]) -> Iterator[str]:
    """The columns that a value is taken from."""
    if isinstance(theirs, Mapping):
        yield from _FIELD.findall(str(theirs["text"])) if "text" in theirs else [str(theirs["column"])]
    else:
        yield from [theirs] if isinstance(theirs, str) else theirs


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


def _made(row: Mapping[str, object], made: Mapping[str, object], ours: str) -> object:
    if "text" in made:
        texts = {name: _value(row, name, ours) for name in named_columns(made)}
        return _FIELD.sub(
            lambda name: "" if texts[name[1]] is None else str(texts[name[1]]), str(made["text"])
        ).strip()
    value = _value(row, str(made["column"]), ours)
    if value is None:
        return None
    try:
        if "pattern" in made:
            value = _each(value, re.compile(str(made["pattern"])))
        if "index_from" in made:
            value = _letter(value, int(str(made["index_from"])))
        return _corners(value) if "box" in made else value
    except ValueError as error:
        raise DataError(f"columns: {ours}: {error}") from None


def _each(value: object, pattern: re.Pattern[str]) -> object:
    """The pattern's last match in a text, or in each of several."""
    if isinstance(value, list):
        return [_each(one, pattern) for one in value]
    matches = list(pattern.finditer(value)) if isinstance(value, str) else []
    if not matches:
        raise ValueError(f"pattern {pattern.pattern!r} does not occur in {shown(value)}")
    return matches[-1][pattern.groups].strip()


def _letter(value: object, first: int) -> str:
    text = str(value).strip()
    index = int(text) - first if text.isdecimal() and not isinstance(value, bool) else -1
    if not 0 <= index < len(LETTERS):
        raise ValueError(f"{shown(value)} is not the number of an option from {first} on")
    return LETTERS[index]


def _corners(value: object) -> list[object]:
    """[x, y, width, height], or a list of them, as [x1, y1, x2, y2]."""
    if isinstance(value, list) and value and all(isinstance(one, list) for one in value):
        return [_corners(one) for one in value]
    numbers = value if isinstance(value, list) and len(value) == 4 else []
    if not numbers or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers):
        raise ValueError(f"{shown(value)} is no box of four numbers, x, y, width and height")
    x, y, width, height = numbers
    return [x, y, x + width, y + height]
