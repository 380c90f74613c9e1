"""The unified accuracy reward: one number for any generated text, from three views of its overlap with gold.

Rb, BLEU: local wording. Rr, ROUGE: coverage of key information. Rm, METEOR: the same words, stems and
synonyms in the same order. No mix of n-grams sees a negation or a swapped fact; where an answer has one right
form, use a scorer of omnirl_core.rewards.answers.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from omnirl_core.rewards.overlap_bleu import bleu, nltk_bleu, smoothed_bleu
from omnirl_core.rewards.overlap_meteor import aligned_score, meteor, synonym_table
from omnirl_core.rewards.overlap_rouge import ORDER, Variant, rouge, rouge_f
from omnirl_core.rewards.reward import on_answer
from omnirl_core.rewards.words import cut_by, read_words, rouge_score_words, seed_words
from omnirl_core.text import references
from omnirl_core.values import check_choice

__all__ = ["bleu", "meteor", "overlap", "rouge"]

EQUAL = {"bleu": 1.0, "rouge": 1.0, "meteor": 1.0}


@on_answer
def overlap(
    prediction: str,
    reference: Any,
    *,
    weights: Mapping[str, float] = EQUAL,
    variant: Variant = "rougeL",
    synonyms: Literal["wordnet", "none"] = "wordnet",
    numbers: bool = False,
    power: float = 1.0,
    preset: Literal["seed"] | None = None,
) -> float | None:
    """Weighted mean of BLEU, ROUGE and METEOR in [0, 1]; identical text is 1.0. The best reference counts.

    `variant` is ROUGE's, `synonyms` METEOR's, `numbers` keeps each number in one token. The mean is raised to
    `power`: 2 makes half of the overlap worth a quarter, so that right words in a wrong order earn little.
    `preset="seed"` is the original OmniRL's (BLEU-2 + ROUGE-1) / 2 to the last bit, faults included: one
    identical word is worth 0.5, Chinese text 0.0.

    >>> overlap("A dog runs.", "a dog runs"), overlap("我爱北京", ["我爱上海", "我爱北京"])
    (1.0, 1.0)
    >>> round(overlap("a big dog", "a large dog"), 2), overlap("Paris", "Paris", preset="seed")
    (0.72, 0.5)
    """
    golds = references(reference)
    if golds is None:
        return None
    check_choice("preset", preset, (None, "seed"))
    check_choice("variant", variant, ORDER)
    if power <= 0:
        raise ValueError(f"power: {power} must be above 0")
    if preset == "seed":
        return max(seed_accuracy(prediction, gold) for gold in golds) ** power
    total = _total(weights)
    table = synonym_table(synonyms)
    cut = cut_by(numbers)
    predicted = read_words(prediction, cut)
    views: dict[str, Callable[..., float]] = {
        "bleu": smoothed_bleu,
        "rouge": partial(rouge_f, variant=variant),
        "meteor": partial(aligned_score, table=table),
    }
    weighted = [(weight, views[name]) for name, weight in weights.items() if weight]
    means = (
        sum(w * view(predicted, read_words(gold, cut)) for w, view in weighted) / total for gold in golds
    )
    return max(means) ** power


def _total(weights: Mapping[str, float]) -> float:
    total = sum(weights.values())
    if not set(weights) <= set(EQUAL) or min(weights.values(), default=0) < 0 or total <= 0:
        raise ValueError(
            f"weights: {dict(weights)} must weigh bleu, rouge and meteor, none below 0, one above"
        )
    return total


def seed_accuracy(prediction: str, gold: str) -> float:
    """The original's accuracy, (BLEU-2 + ROUGE-1) / 2, with the text cleaning of each."""
    bleu_2 = nltk_bleu(read_words(prediction, seed_words), [read_words(gold, seed_words)], 2)
    rouge_1 = rouge_f(
        read_words(prediction, rouge_score_words), read_words(gold, rouge_score_words), "rouge1", strict=True
    )
    return (bleu_2 + rouge_1) / 2
