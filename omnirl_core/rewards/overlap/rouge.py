"""ROUGE of one answer: how much of the reference it covers (Rr, key information)."""

from typing import Any, Literal

from rapidfuzz.distance import LCSseq

from omnirl_core.rewards.overlap.content import LIGHT_WEIGHT, Weighing, asked, weigh
from omnirl_core.rewards.overlap.words import Words, cut_by, read_words, rouge_score_words
from omnirl_core.rewards.reward import on_answer
from omnirl_core.text import reference_texts
from omnirl_core.type_checks import check_choice

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
    light: float = LIGHT_WEIGHT,
    prompt: Any = None,
    problem: str | None = None,
) -> float | None:
    """ROUGE F1 with Porter stems in [0, 1]; identical text is 1.0. The best reference counts.

    `rougeL` (longest common subsequence) sees the order of words, `rouge1` and `rouge2` (words, bigrams) do not.
    Where the question is known (columns `problem`, `prompt`), its words and function words weigh `light`, see
    content.py; 1 weighs all alike. `compat="rouge_score"` gives `RougeScorer([variant], use_stemmer=True)`, which
    drops all but ASCII.

    >>> rouge("the cat sat", "the cat sat down"), rouge("sat cat the", "the cat sat", "rouge1")
    (0.857..., 1.0)
    """
    references = reference_texts(reference)
    if references is None:
        return None
    check_choice("variant", variant, ORDER)
    check_choice("compat", compat, (None, "rouge_score"))
    cut = rouge_score_words if compat == "rouge_score" else cut_by(numbers)
    predicted = read_words(prediction, cut)
    question = asked(prompt, problem, light) if compat is None else ""
    if question:
        return max(
            weighted_rouge(pair, variant)
            if (pair := weigh(prediction, reference, question, light))
            else rouge_f(predicted, read_words(reference, cut), variant)
            for reference in references
        )
    return max(
        rouge_f(predicted, read_words(reference, cut), variant, compat is not None)
        for reference in references
    )


def rouge_f(predicted: Words, reference: Words, variant: Variant, strict: bool = False) -> float:
    """F1 of one pair; `strict` leaves texts without tokens, and bigrams of one word, at the library's 0.0."""
    if not predicted.words or not reference.words:
        return float(
            not strict and not predicted.words and not reference.words and predicted.same_text(reference)
        )
    if variant == "rougeL":
        return _f1(
            LCSseq.similarity(predicted.rouge_stems, reference.rouge_stems), len(predicted), len(reference)
        )
    order = ORDER[variant] if strict else min(ORDER[variant], len(predicted), len(reference))
    return _f1(
        predicted.shared(reference, order, stemmed=True),
        len(predicted) - order + 1,
        len(reference) - order + 1,
    )


def weighted_rouge(pair: Weighing, variant: Variant) -> float:
    """F1 whose words are weighted; subsequences and bigrams run over the content words alone."""
    predicted, reference = pair.predicted, pair.reference
    if variant == "rougeL":
        order, shared = 1, LCSseq.similarity(predicted.rouge_stems, reference.rouge_stems)
    else:
        order = min(ORDER[variant], len(predicted), len(reference)) or 1
        shared = predicted.shared(reference, order, stemmed=True)
    return _f1(shared + pair.light_matched, pair.size - order + 1, pair.reference_size - order + 1)


def _f1(matched: float, predicted: float, reference: float) -> float:
    if not matched:
        return 0.0
    precision, recall = matched / predicted, matched / reference  # rouge_score's operations, in its order
    return 2 * precision * recall / (precision + recall)
