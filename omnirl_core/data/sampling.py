"""Which rows of a source a mixture takes: `all`, `first:N`, `end:N`, `random:N`; `N%` may stand for N."""

import math
import random
import re
from dataclasses import dataclass
from fractions import Fraction

_STRATEGY = re.compile(r"(?:(first|end|random):)?([0-9]+(?:\.[0-9]+)?)(%?)")


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
