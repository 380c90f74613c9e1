"""BLEU of one answer: how much of its wording, in order, stands in the reference (Rb, local matching)."""

import math
import sys
from collections.abc import Sequence
from typing import Any, Literal

from omnirl_core.rewards.overlap.content import LIGHT_WEIGHT, Weighing, asked, weigh
from omnirl_core.rewards.overlap.words import Words, cut_by, read_words
from omnirl_core.rewards.reward import on_answer
from omnirl_core.text import references
from omnirl_core.type_checks import check_choice


@on_answer
def bleu(
    prediction: str,
    reference: Any,
    *,
    max_order: int = 4,
    numbers: bool = False,
    compat: Literal["nltk"] | None = None,
    light: float = LIGHT_WEIGHT,
    prompt: Any = None,
    problem: str | None = None,
) -> float | None:
    """Smoothed sentence BLEU in [0, 1]; identical text is 1.0. The best of several references counts.

    The order is the longest that both texts allow, up to `max_order`; from bigrams on one match and one
    n-gram are added (Lin and Och, ORANGE, COLING 2004). `numbers` keeps each number in one token.
    Where the question is known (columns `problem`, `prompt`), its words and function words weigh `light`, see
    content.py; 1 weighs all alike. `compat="nltk"` gives nltk's `sentence_bleu` on the same tokens, unsmoothed.

    >>> bleu("Paris", "paris"), bleu("a red car", ["a blue car", "a red car"]), bleu("cat", "dog")
    (1.0, 1.0, 0.0)
    """
    golds = references(reference)
    if golds is None:
        return None
    check_choice("compat", compat, (None, "nltk"))
    if max_order < 1:
        raise ValueError(f"max_order: {max_order} must be 1 or more")
    cut = cut_by(numbers, compat)
    question = asked(prompt, problem, light) if compat is None else ""
    if question:
        return max(
            weighted_bleu(pair, max_order)
            if (pair := weigh(prediction, gold, question, light))
            else smoothed_bleu(read_words(prediction, cut), read_words(gold, cut), max_order)
            for gold in golds
        )
    predicted = read_words(prediction, cut)
    if compat == "nltk":
        return nltk_bleu(predicted, [read_words(gold, cut) for gold in golds], max_order)
    return max(smoothed_bleu(predicted, read_words(gold, cut), max_order) for gold in golds)


def smoothed_bleu(predicted: Words, gold: Words, max_order: int = 4) -> float:
    if not predicted.words or not gold.words:
        return float(not predicted.words and not gold.words and predicted.same_text(gold))
    size, order = len(predicted), min(max_order, len(predicted), len(gold))
    shared = predicted.shared(gold, 1)
    if not shared:
        return 0.0
    logs = [math.log(shared / size)]
    logs += [math.log((predicted.shared(gold, n) + 1) / (size - n + 2)) for n in range(2, order + 1)]
    return brevity(size, len(gold)) * math.exp(sum(logs) / order)


def weighted_bleu(pair: Weighing, max_order: int = 4) -> float:
    """BLEU whose words are weighted: unigrams by their weights, longer n-grams over the content words alone."""
    predicted, gold = pair.predicted, pair.gold
    if not pair.size:
        return 0.0
    shared = predicted.shared(gold, 1)
    first = (shared + pair.light_matched) / pair.size
    if not shared:
        return brevity(pair.size, pair.gold_size) * first
    n_words, order = len(predicted), min(max_order, len(predicted), len(gold))
    logs = [math.log(first)]
    logs += [math.log((predicted.shared(gold, n) + 1) / (n_words - n + 2)) for n in range(2, order + 1)]
    return brevity(pair.size, pair.gold_size) * math.exp(sum(logs) / order)


def nltk_bleu(predicted: Words, golds: Sequence[Words], max_order: int) -> float:
    """nltk's BLEU of one sentence: counts clipped by the best reference, length of the closest one."""
    size = len(predicted)
    shared = [_shared_with_any(predicted, golds, order) for order in range(1, max_order + 1)]
    if not shared[0]:
        return 0.0
    # nltk's method0 puts the smallest float in the place of a precision of zero
    precisions = [m / max(1, size - n) if m else sys.float_info.min for n, m in enumerate(shared)]
    closest = min((len(gold) for gold in golds), key=lambda length: (abs(length - size), length))
    weight = 1 / max_order
    return brevity(size, closest) * math.exp(math.fsum([weight * math.log(p) for p in precisions]))


def _shared_with_any(predicted: Words, golds: Sequence[Words], order: int) -> int:
    if len(golds) == 1:
        return predicted.shared(golds[0], order)
    allowed = [gold.counts(order, stemmed=False) for gold in golds]
    counts = predicted.counts(order, stemmed=False)
    return sum(min(n, max(gold.get(gram, 0) for gold in allowed)) for gram, n in counts.items())


def brevity(predicted: float, gold: float) -> float:
    """Penalty for a text shorter than the reference."""
    return 1.0 if predicted > gold else math.exp(1 - gold / predicted)
