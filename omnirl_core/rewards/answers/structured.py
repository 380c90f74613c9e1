"""Rewards for answers with a structure: several labels, fields of JSON, a ranking.

A list is one reference here, not several: `["cat", "dog"]` asks for both. A list of lists holds alternatives.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

from omnirl_core.rewards.answers.answers import normal_text
from omnirl_core.rewards.answers.numbers import read_quantity, same_quantity
from omnirl_core.rewards.reward import on_answer
from omnirl_core.text import strip_tags

MOST_ITEMS = 500  # of an answer: the rest is not read
MOST_FIELDS = 2_000
MOST_PAIRED = 24  # items of two lists that are paired by their likeness; longer lists by their order

_BETWEEN = re.compile(r"\s*[,;\n，；、]\s*(?:and\s+|or\s+)?")
_SPACES = re.compile(r"[^\S\n]+")
_AND = re.compile(r"\s+and\s+")
_BULLET = re.compile(r"^\s*(?:[-*•]|\(?\d{1,3}[.):])\s+")


def read_json(text: str) -> Any:
    """The JSON of a text: the whole of it, or of a ```json block. ValueError where there is none.

    >>> read_json('```json\\n{"total": 3}\\n```'), read_json(" [1] ")
    ({'total': 3}, [1])
    """
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and len(text) >= 6:
        text = text[3:-3].removeprefix("json").removeprefix("JSON")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON nests too deep") from error


def read_items(source: object) -> list[str] | None:
    """The items of a list, of JSON, of lines or of a text with commas, in normal form; None for what is no list.

    >>> read_items("a cat, Dog and bird"), read_items('["x, y", 3]'), read_items("1. Mars\\n2. Venus")
    (['a cat', 'dog and bird'], ['x, y', '3'], ['mars', 'venus'])
    """
    if isinstance(source, str):
        text = strip_tags(source)
        try:
            source = read_json(text) if text.lstrip()[:1] in ("[", "`") else None
        except ValueError:
            source = None
        if not isinstance(source, list):
            text = _SPACES.sub(" ", text)  # a run of spaces would cost its square
            parts = _BETWEEN.split(text, maxsplit=MOST_ITEMS)
            source = [_BULLET.sub("", part) for part in (parts if len(parts) > 1 else _AND.split(text))]
    elif not isinstance(source, list | tuple):
        source = [source]
    texts = [str(one) for one in source[:MOST_ITEMS] if isinstance(one, str | int | float)]
    return [normal_text(text) for text in texts if text.strip()] or None


def _alternatives(solution: object) -> list[list[str]]:
    """References of which each is a list of items."""
    listed: Any = solution if isinstance(solution, list | tuple) else [solution]
    nested = any(isinstance(one, list | tuple) for one in listed)
    found = map(read_items, listed if nested else [solution])
    return [items for items in found if items]


def _best(answer: list[str] | None, solution: object, score: Callable[[list[str], list[str]], float]) -> float | None:
    references = _alternatives(solution)
    return max((score(answer or [], reference) for reference in references), default=None)


@on_answer
def set_f1(prediction: str, solution: object) -> float | None:
    """F1 of the answer's labels against the reference's, in [0, 1]; their order and case do not matter.

    Labels are a JSON list, lines, or a text with commas, on both sides. A list of lists holds alternatives.

    >>> set_f1("dog, cat", ["cat", "dog", "bird"]), set_f1('["A", "C"]', "C, A"), set_f1("all of them", "a; b")
    (0.8, 1.0, 0.0)
    """
    return _best(read_items(prediction), solution, _set_f1)


def _set_f1(said: list[str], wanted: list[str]) -> float:
    found, reference = set(said), set(wanted)
    return 2 * len(found & reference) / (len(found) + len(reference))


@on_answer
def ranking(prediction: str, solution: object) -> float | None:
    """Kendall's tau of the answer's order with the reference's, 0.0 where it is negative: in [0, 1].

    Pairs with an item that the answer lacks count as neither, and items that the reference lacks lower the score by
    their share. Lists are written as for `set_f1`; None for references of one item.

    >>> order = ["Mercury", "Venus", "Earth", "Mars"]
    >>> ranking("Mercury, Venus, Mars, Earth", order), ranking("Mercury, Venus", order), ranking("Mars, Earth", order)
    (0.6666666666666666, 0.16666666666666666, 0.0)
    """
    references = [reference for reference in _alternatives(solution) if len(set(reference)) > 1]
    return _best(read_items(prediction), references, _tau) if references else None


def _tau(said: list[str], wanted: list[str]) -> float:
    wanted, said = list(dict.fromkeys(wanted)), list(dict.fromkeys(said))
    places = {item: place for place, item in enumerate(said)}
    found = [places[item] for item in wanted if item in places]
    agree = sum(1 if first < second else -1 for first, second in combinations(found, 2))
    tau = agree / math.comb(len(wanted), 2)
    return max(0.0, tau) * min(1.0, len(wanted) / max(1, len(said)))


@on_answer
def json_fields(
    prediction: str,
    solution: object,
    *,
    strict_types: bool = False,
    ignore: list[str] | None = None,
    relative_tolerance: float | None = None,
) -> float | None:
    """F1 of the fields of the answer's JSON against the reference's, in [0, 1]: invoices, forms, calls of tools.

    A field is a value at its path; missing and surplus ones both cost. Texts are compared as by `exact`, numbers as by
    `number` with `relative_tolerance`; `strict_types` takes 3 and "3" apart. Lists of objects are paired as fits best.
    Fields named in `ignore` are left out on both sides. The reference is an object, a list of objects, or the text of
    one.

    >>> invoice = {"no": "A-7", "total": 12.5, "items": [{"name": "pen", "n": 2}, {"name": "ink", "n": 1}]}
    >>> json_fields('{"no": "a-7", "items": [{"name": "ink", "n": 1}]}', invoice)
    0.66...
    >>> json_fields('{"total": "12.50"}', {"total": 12.5}), json_fields("12.50", {"total": 12.5})
    (1.0, 0.0)
    """
    compare = Fields(strict_types, frozenset(ignore or ()), relative_tolerance)
    reference = _json_reference(solution)
    wanted = 0 if reference is None else compare.count(reference)
    if not wanted:
        return None
    try:
        answer = read_json(prediction)
        found = compare.count(answer)
    except (ValueError, RecursionError):
        return 0.0
    if not isinstance(answer, type(reference)) or found > 2 * wanted + MOST_FIELDS:
        return 0.0
    return 2 * compare.agreeing(answer, reference) / (found + wanted)


def _json_reference(solution: object) -> dict[str, Any] | list[Any] | None:
    """An object, or a list with one; None for other references."""
    reference: Any = solution
    if isinstance(solution, str):
        try:
            reference = read_json(strip_tags(solution))
        except ValueError:
            return None
    if isinstance(reference, dict):
        return reference or None
    is_list = isinstance(reference, list) and any(isinstance(one, dict) for one in reference)
    return reference if is_list else None


class Fields:
    """How the fields of two JSON values are compared."""

    def __init__(self, strict_types: bool, ignore: frozenset[str], relative_tolerance: float | None) -> None:
        self.strict_types, self.ignore, self.relative_tolerance = strict_types, ignore, relative_tolerance

    def count(self, value: object) -> int:
        """How many values there are at the ends of all paths; an empty list or object is one."""
        if isinstance(value, dict):
            return sum(self.count(one) for key, one in value.items() if key not in self.ignore) or 1
        return sum(map(self.count, value)) or 1 if isinstance(value, list | tuple) else 1

    def agreeing(self, said: object, wanted: object) -> float:
        """How many of them agree."""
        if isinstance(wanted, dict) and isinstance(said, dict):
            if not said or not wanted:
                return float(said == wanted)
            keys = [key for key in wanted if key in said and key not in self.ignore]
            return sum(self.agreeing(said[key], wanted[key]) for key in keys)
        if isinstance(wanted, list | tuple) and isinstance(said, list | tuple):
            return self._agreeing_lists(said, wanted)
        return float(self._same(said, wanted))

    def _agreeing_lists(self, said: Sequence[Any], wanted: Sequence[Any]) -> float:
        if not said or not wanted:
            return float(not said and not wanted)
        objects = all(isinstance(one, dict) for one in (*said, *wanted))
        if not objects or max(len(said), len(wanted)) > MOST_PAIRED:
            return sum(self.agreeing(a, b) for a, b in zip(said, wanted, strict=False))
        from scipy.optimize import linear_sum_assignment  # half a second to import

        worth = [[self.agreeing(a, b) for b in wanted] for a in said]
        rows, columns = linear_sum_assignment(worth, maximize=True)
        return sum(worth[row][column] for row, column in zip(rows, columns, strict=True))

    def _same(self, said: object, wanted: object) -> bool:
        if isinstance(said, dict | list) or isinstance(wanted, dict | list | tuple):
            return False
        if self.strict_types and _kind(said) != _kind(wanted):
            return False
        if wanted is None or isinstance(wanted, bool):
            return said is wanted or (not self.strict_types and normal_text(_plain(said)) == _plain(wanted))
        a, b = _plain(said), _plain(wanted)
        number = _kind(wanted) == "number" or _kind(said) == "number"
        quantities = (read_quantity(a), read_quantity(b)) if number else (None, None)
        if quantities[0] is not None and quantities[1] is not None:
            return same_quantity(quantities[0], quantities[1], self.relative_tolerance, 0.0)
        return len(a) <= 4 * len(b) + 100 and normal_text(a) == normal_text(b)


def _kind(value: object) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return "number" if number else type(value).__name__


def _plain(value: object) -> str:
    """A value as the text that JSON has for it, without quotes."""
    return value if isinstance(value, str) else json.dumps(value)
