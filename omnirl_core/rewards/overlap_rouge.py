"""ROUGE of one answer: how much of the reference it covers (Rr, key information)."""

from typing import Any, Literal

from rapidfuzz.distance import LCSseq

from omnirl_core.rewards.reward import on_answer
from omnirl_core.rewards.words import Words, cut_by, read_words, rouge_score_words
from omnirl_core.text import references
from omnirl_core.values import check_choice

Variant = Literal["rouge1", "rouge2", "rougeL"]
ORDER = {"rouge1": 1, "rouge2": 2, "rougeL": 0}


@on_answer
def rouge(
    prediction: str,
    reference: Any,
    variant: Variant = "rougeL",
    *,
    numbers: bool = False,
    compat: Literal["rouge_score"] | None = None,
) -> float | None:
    """ROUGE F1 with Porter stems in [0, 1]; identical text is 1.0. The best reference counts.

    `rougeL` (longest common subsequence) sees the order of words, `rouge1` and `rouge2` (words, bigrams) do not.
    `compat="rouge_score"` gives `RougeScorer([variant], use_stemmer=True)`, which drops all but ASCII.

    >>> rouge("the cat sat", "the cat sat down"), rouge("sat cat the", "the cat sat", "rouge1")
    (0.857..., 1.0)
    """
    golds = references(reference)
    if golds is None:
        return None
    check_choice("variant", variant, ORDER)
    check_choice("compat", compat, (None, "rouge_score"))
    cut = rouge_score_words if compat == "rouge_score" else cut_by(numbers)
    predicted = read_words(prediction, cut)
    return max(rouge_f(predicted, read_words(gold, cut), variant, compat is not None) for gold in golds)


def rouge_f(predicted: Words, gold: Words, variant: Variant, strict: bool = False) -> float:
    """F1 of one pair; `strict` leaves texts without tokens, and bigrams of one word, at the library's 0.0."""
    if not predicted.words or not gold.words:
        return float(not strict and not predicted.words and not gold.words and predicted.same_text(gold))
    if variant == "rougeL":
        return _f1(LCSseq.similarity(predicted.rouge_stems, gold.rouge_stems), len(predicted), len(gold))
    order = ORDER[variant] if strict else min(ORDER[variant], len(predicted), len(gold))
    return _f1(predicted.shared(gold, order, stemmed=True), len(predicted) - order + 1, len(gold) - order + 1)


def _f1(matched: int, predicted: int, gold: int) -> float:
    if not matched:
        return 0.0
    precision, recall = matched / predicted, matched / gold  # rouge_score's operations, in its order
    return 2 * precision * recall / (precision + recall)
