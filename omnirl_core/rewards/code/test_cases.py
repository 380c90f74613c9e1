"""The tests of a programming exercise, and whether what a program wrote passes them.

The expected values live here, in the judge's process, and nowhere else: a program gets its input, and its
output is compared as plain data.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LONGEST_NUMBER = 64  # characters; longer runs of digits are compared as text


@dataclass(frozen=True)
class Test:
    """One test: what goes in, what should come out."""

    __test__ = False  # no pytest class, whatever its name says

    stdin: str
    expected: Any
    is_call: bool
    unordered: bool = False

    def passes(self, stdout: str, tolerance: float) -> bool:
        """Whether a program that ended well and wrote `stdout` passes."""
        if not self.is_call:
            return same_text(stdout, self.expected, tolerance)
        try:
            value = json.loads(stdout)
            if self.unordered and isinstance(value, list) and isinstance(self.expected, list):
                return same_value(in_some_order(value), in_some_order(self.expected), tolerance)
        except (ValueError, RecursionError):  # no JSON, a number of 5,000 digits, 10,000 nested lists
            return False
        return same_value(value, self.expected, tolerance)


@dataclass(frozen=True)
class Exercise:
    """All tests of one exercise; `prelude` is run before an answer's function is defined."""

    tests: tuple[Test, ...]
    prelude: str = "from typing import *"


def read_exercise(solution: object) -> Exercise | None:
    """The exercise in a row's `solution`, a dict or its JSON; None where it cannot be read.

    >>> read_exercise('{"tests": [{"stdin": "1 2", "stdout": "3"}]}').tests[0].expected
    '3'
    >>> read_exercise({"tests": []}) is None
    True
    """
    if isinstance(solution, str):
        try:
            solution = json.loads(solution)
        except (ValueError, RecursionError):
            return None
    if not isinstance(solution, Mapping):
        return None
    rows, prelude = solution.get("tests"), solution.get("prelude")
    if not isinstance(rows, list | tuple) or not rows:
        return None
    tests = [read_test(row) for row in rows]
    if not all(tests) or not isinstance(prelude, str | None):
        return None
    return Exercise(tuple(filter(None, tests)), *([prelude] if prelude is not None else []))


def read_test(row: object) -> Test | None:
    """One test of a row; None where it is neither {"stdin", "stdout"} nor {"call", "args", "expected"}."""
    if not isinstance(row, Mapping):
        return None
    # Columns of one Arrow table share their keys, so a test may come with the other kind's keys set to None.
    call, stdin, stdout = row.get("call"), row.get("stdin"), row.get("stdout")
    if call is None:
        return Test(stdin or "", stdout, False) if isinstance(stdout, str) and isinstance(stdin, str | None) else None
    args, kwargs = row.get("args"), row.get("kwargs")
    args, kwargs = [] if args is None else args, {} if kwargs is None else kwargs
    if not isinstance(call, str) or not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        return None
    if "expected" not in row:
        return None
    try:
        request = json.dumps({"call": call, "args": args, "kwargs": dict(kwargs)})
        expected = json.loads(json.dumps(row["expected"]))  # as an answer's value comes back: tuples as lists
    except (TypeError, ValueError, RecursionError):
        return None
    return Test(request, expected, True, bool(row.get("unordered")))


def same_text(output: str, expected: str, tolerance: float) -> bool:
    """Whether two texts agree but for white space at line ends and, within `tolerance`, decimal numbers.

    >>> same_text("3 \\n\\n", "3", 0.0), same_text("0.3333333", "0.33333334", 1e-6), same_text("4", "5", 1e-6)
    (True, True, False)
    """
    wrote, wanted = ([line.rstrip() for line in text.rstrip().split("\n")] for text in (output, expected))
    if wrote == wanted:
        return True
    return len(wrote) == len(wanted) and all(map(same_line, wrote, wanted, [tolerance] * len(wanted)))


def same_line(line: str, wanted: str, tolerance: float) -> bool:
    """Whether two lines agree word by word."""
    words, wanted_words = line.split(), wanted.split()
    if len(words) != len(wanted_words):
        return False
    pairs = zip(words, wanted_words, strict=True)
    return all(word == want or same_decimal(word, want, tolerance) for word, want in pairs)


def same_decimal(word: str, wanted: str, tolerance: float) -> bool:
    """Whether two words are numbers within the tolerance; whole numbers must be written alike."""
    if len(word) > LONGEST_NUMBER or len(wanted) > LONGEST_NUMBER or not any(mark in wanted for mark in ".eE"):
        return False
    try:
        return close(float(word), float(wanted), tolerance)
    except ValueError:
        return False


def same_value(value: object, expected: object, tolerance: float) -> bool:
    """Whether two JSON values agree: true is not 1, decimals within the tolerance.

    >>> same_value([1, 2.0000001], [1, 2.0], 1e-6), same_value(True, 1, 1e-6), same_value([None], [[]], 0)
    (True, False, False)
    """
    pairs = [(value, expected)]  # a stack, not recursion: an answer chooses how deep its value is nested
    while pairs:
        one, other = pairs.pop()
        if isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return False
            pairs += [(one[key], other[key]) for key in one]
        elif isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return False
            pairs += zip(one, other, strict=True)
        elif not same_scalar(one, other, tolerance):
            return False
    return True


def same_scalar(one: object, other: object, tolerance: float) -> bool:
    """Whether two JSON scalars agree: 2 for an expected 2.0 does; 2.0 for 2, 1 for true do not; no container does."""
    # where a whole number is asked for, `/` is not `//`
    if isinstance(other, float) and isinstance(one, float | int) and not isinstance(one, bool):
        return close(one, other, tolerance)
    return type(one) is type(other) and not isinstance(one, list | dict) and one == other


def close(one: float, other: float, tolerance: float) -> bool:
    """Whether two numbers are within the tolerance, relative or absolute; NaN only as itself."""
    try:
        one, other = float(one), float(other)
    except OverflowError:  # a whole number beyond 1e308
        return one == other
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance) or (math.isnan(one) and math.isnan(other))


def in_some_order(values: list[object]) -> list[object]:
    """A list's elements in an order that depends on nothing but themselves."""
    return sorted(values, key=lambda value: json.dumps(value, sort_keys=True))
