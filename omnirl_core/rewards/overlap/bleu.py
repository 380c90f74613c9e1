"""BLEU of one answer: how much of its wording, in order, stands in the reference (Rb, local matching)."""

import math
import sys
from collections.abc import Sequence
from typing import Any, Literal

from omnirl_core.rewards.overlap.content import LIGHT_WEIGHT, Weighing, asked, weigh
from omnirl_core.rewards.overlap.words import Words, cut_by, read_words
from omnirl_core.rewards.reward import on_answer
from omnirl_core.text import reference_texts
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
    references = reference_texts(reference)
    if references is None:
        return None
    check_choice("compat", compat, (None, "nltk"))
    if max_order < 1:
        raise ValueError(f"max_order: {max_order} must be 1 or more")
    cut = cut_by(numbers, compat)
    question = asked(prompt, problem, light) if compat is None else ""
    if question:
        return max(
            weighted_bleu(pair, max_order)
            if (pair := weigh(prediction, reference, question, light))
            else smoothed_bleu(read_words(prediction, cut), read_words(reference, cut), max_order)
            for reference in references
        )
    predicted = read_words(prediction, cut)
    if compat == "nltk":
        return nltk_bleu(predicted, [read_words(reference, cut) for reference in references], max_order)
    return max(smoothed_bleu(predicted, read_words(reference, cut), max_order) for reference in references)


def smoothed_bleu(predicted: Words, reference: Words, max_order: int = 4) -> float:
    if not predicted.words or not reference.words:
        return float(not predicted.words and not reference.words and predicted.same_text(reference))
    size, order = len(predicted), min(max_order, len(predicted), len(reference))
    shared = predicted.shared(reference, 1)
    if not shared:
        return 0.0
    logs = [math.log(shared / size)]
    logs += [math.log((predicted.shared(reference, n) + 1) / (size - n + 2)) for n in range(2, order + 1)]
    return brevity(size, len(reference)) * math.exp(sum(logs) / order)


def weighted_bleu(pair: Weighing, max_order: int = 4) -> float:
    """BLEU whose words are weighted: unigrams by their weights, longer n-grams over the content words alone."""
    predicted, reference = pair.predicted, pair.reference
    if not pair.size:
        return 0.0
    shared = predicted.shared(reference, 1)
    first = (shared + pair.light_matched) / pair.size
    if not shared:
        return brevity(pair.size, pair.reference_size) * first
    n_words, order = len(predicted), min(max_order, len(predicted), len(reference))
    logs = [math.log(first)]
    logs += [math.log((predicted.shared(reference, n) + 1) / (n_words - n + 2)) for n in range(2, order + 1)]
    return brevity(pair.size, pair.reference_size) * math.exp(sum(logs) / order)


def nltk_bleu(predicted: Words, references: Sequence[Words], max_order: int) -> float:
    """nltk's BLEU of one sentence: counts clipped by the best reference, length of the closest one."""
    size = len(predicted)
    shared = [_shared_with_any(predicted, references, order) for order in range(1, max_order + 1)]
    if not shared[0]:
        return 0.0
    # nltk's method0 puts the smallest float in the place of a precision of zero
    precisions = [m / max(1, size - n) if m else sys.float_info.min for n, m in enumerate(shared)]
    closest = min(
        (len(reference) for reference in references), key=lambda length: (abs(length - size), length)
    )
    weight = 1 / max_order
    return brevity(size, closest) * math.exp(math.fsum([weight * math.log(p) for p in precisions]))


def _shared_with_any(predicted: Words, references: Sequence[Words], order: int) -> int:
    if len(references) == 1:
        return predicted.shared(references[0], order)
    allowed = [reference.counts(order, stemmed=False) for reference in references]
    counts = predicted.counts(order, stemmed=False)
    return sum(min(n, max(reference.get(gram, 0) for reference in allowed)) for gram, n in counts.items())


def brevity(predicted: float, reference: float) -> float:
    """Penalty for a text shorter than the reference."""
    return 1.0 if predicted > reference else math.exp(1 - reference / predicted)
