"""How long a completion is, and how much of it is repeated. Neither says whether it is right: gate and weigh."""

import math
from collections.abc import Sequence
from itertools import islice
from typing import Literal

from omnirl_core.text import TAG, tokens
from omnirl_core.type_checks import check_choice

TOKENS_PER_WORD = 4
"""More model tokens than that per word are punctuation or noise, and earn nothing."""


def length_band(
    completion: str,
    *,
    low: int = 20,
    high: int = 300,
    edge: int | None = None,
    unit: Literal["tokens", "words"] = "tokens",
    completion_ids: Sequence[int] | None = None,
    preset: Literal["seed"] | None = None,
) -> float:
    """1.0 from `low` to `high` units of length, falling linearly to 0.0 outside; in [0, 1].

    The fall is over `edge` units, by default from `low` down to nothing and from `high` up to twice that.
    `tokens` are the model's where the batch gives `completion_ids`, otherwise words. Tags are no words, and
    punctuation earns nothing. As a reward, give it `gated_by`, so that length cannot pay for a wrong answer.
    `preset="seed"` is the original OmniRL's curve over characters, which reaches 1.996.

    >>> [length_band("word " * n, low=10, high=20) for n in (0, 5, 10, 20, 30, 40)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    >>> length_band("," * 100, low=10, high=200)
    0.0
    """
    check_choice("unit", unit, ("tokens", "words"))
    check_choice("preset", preset, (None, "seed"))
    if preset == "seed":
        return seed_length(completion)
    if not 0 < low <= high or (edge is not None and edge < 1):
        raise ValueError(
            f"low: {low}, high: {high}, edge: {edge} must be 0 < low <= high, and edge 1 or more"
        )
    words = len(tokens(TAG.sub(" ", completion)))
    counted = spent = words
    if unit == "tokens" and completion_ids is not None:
        spent = len(completion_ids)
        counted = min(spent, TOKENS_PER_WORD * words)
    rise = 1 - (low - counted) / (edge or low)
    fall = 1 - (spent - high) / (edge or high)
    return max(0.0, min(1.0, rise, fall))


def seed_length(completion: str, *, limit: int = 500, gamma: float = 0.9) -> float:
    """The original OmniRL's length reward, in [0, 2): a peak at 499 characters, more for more punctuation."""
    size = len(completion)
    density = sum(completion.count(mark) for mark in ",.;!") / (size + 1e-6)
    if size <= limit:
        base = size * (1 + math.sin(math.pi * size / (2 * limit)))
    else:
        base = 2 * limit + math.log(size - limit + 1)
    return base * gamma ** (size // limit) * (0.5 + 0.5 * density) / 500


def repetition(completion: str, *, order: int = 4) -> float:
    """Share of n-grams of `order` words that occurred before in the text, in [0, 1]: give it a negative weight.

    A text of punctuation alone is read character by character.

    >>> repetition("a b c d e f g"), repetition("so it goes and " * 10)
    (0.0, 0.891...)
    """
    if order < 1:
        raise ValueError(f"order: {order} must be 1 or more")
    text = TAG.sub(" ", completion)
    units = tokens(text) or list("".join(text.split()))
    grams = list(zip(*(islice(units, k, None) for k in range(order)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
