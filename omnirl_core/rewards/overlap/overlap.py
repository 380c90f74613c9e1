"""The unified accuracy reward: one number for any generated text, from three views of its overlap with reference.

Rb, BLEU: local wording. Rr, ROUGE: coverage of key information. Rm, METEOR: the same words, stems and
synonyms in the same order. No mix of n-grams sees a negation or a swapped fact; where an answer has one right
form, use a scorer of omnirl_core.rewards.answers.answers.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from omnirl_core.rewards.overlap.content import LIGHT_WEIGHT, asked, pairs, plain_pair
from omnirl_core.rewards.overlap.contradiction import contradictions
from omnirl_core.rewards.overlap.metrics import (
    ORDER,
    Variant,
    aligned_score,
    nltk_bleu,
    rouge_f,
    smoothed_bleu,
    synonym_table,
)
from omnirl_core.rewards.overlap.words import cut_by, read_words, rouge_score_words, seed_words
from omnirl_core.rewards.reward import on_answer
from omnirl_core.text import reference_texts
from omnirl_core.types import check_choice

EQUAL = {"bleu": 1.0, "rouge": 1.0, "meteor": 1.0}


@on_answer
def overlap(
    prediction: str,
    reference: object,
    *,
    weights: Mapping[str, float] = EQUAL,
    variant: Variant = "rougeL",
    synonyms: Literal["wordnet", "none"] = "wordnet",
    numbers: bool = False,
    power: float = 1.0,
    light: float = LIGHT_WEIGHT,
    contradiction: float = 0.25,
    preset: Literal["seed"] | None = None,
    prompt: object = None,
    problem: str | None = None,
) -> float | None:
    """Weighted mean of BLEU, ROUGE and METEOR in [0, 1]; identical text is 1.0. The best reference counts.

    `variant` is ROUGE's, `synonyms` METEOR's, `numbers` keeps each number in one token. The mean is raised to
    `power`: 2 makes half of the overlap worth a quarter, so that right words in a wrong order earn little.
    Where the question is known (columns `problem`, `prompt`), its words and function words weigh `light` (see
    content.py; 1 weighs all alike), and each kind of fact that the answer has otherwise than the reference (denial,
    number, unit, colour, name) multiplies its score by `contradiction`; 1 does not look.
    `preset="seed"` is the original OmniRL's (BLEU-2 + ROUGE-1) / 2 to the last bit, faults included: one
    identical word is worth 0.5, Chinese text 0.0.

    >>> overlap("A dog runs.", "a dog runs"), overlap("我爱北京", ["我爱上海", "我爱北京"])
    (1.0, 1.0)
    >>> red, question = "The car is red.", "What color is the car?"
    >>> [round(overlap(text, red, problem=question), 2) for text in ("red", "The car is blue.", "The car is")]
    [0.95, 0.01, 0.05]
    >>> round(overlap("a big dog", "a large dog"), 2), overlap("Paris", "Paris", preset="seed")
    (0.72, 0.5)
    """
    references = reference_texts(reference)
    if references is None:
        return None
    check_choice("preset", preset, (None, "seed"))
    check_choice("variant", variant, ORDER)
    if power <= 0:
        raise ValueError(f"power: {power} must be above 0")
    if preset == "seed":
        return max(seed_accuracy(prediction, reference) for reference in references) ** power
    if not 0 <= contradiction <= 1:
        raise ValueError(f"contradiction: {contradiction} must be from 0 to 1")
    total = _total(weights)
    table = synonym_table(synonyms)
    cut = cut_by(numbers)
    question = asked(prompt, problem, light)

    scores: list[float] = []
    for reference, pair in zip(references, pairs(prediction, references, cut, question, light), strict=True):
        mean = sum(w * METRICS[name](pair, variant, table) for name, w in weights.items() if w) / total
        facts = contradictions(prediction, reference, question) if question and contradiction < 1 else 0
        scores.append(contradiction**facts * mean**power)
    return max(scores)


METRICS: dict[str, Callable[..., float]] = {
    "bleu": lambda pair, variant, table: smoothed_bleu(pair),
    "rouge": lambda pair, variant, table: rouge_f(pair, variant),
    "meteor": lambda pair, variant, table: aligned_score(pair, table),
}


def _total(weights: Mapping[str, float]) -> float:
    total = sum(weights.values())
    if not set(weights) <= set(EQUAL) or min(weights.values(), default=0) < 0 or total <= 0:
        raise ValueError(f"weights: {dict(weights)} must weigh bleu, rouge and meteor, none below 0, one above")
    return total


def seed_accuracy(prediction: str, reference: str) -> float:
    """The original's accuracy, (BLEU-2 + ROUGE-1) / 2, with the text cleaning of each."""
    bleu_2 = nltk_bleu(read_words(prediction, seed_words), [read_words(reference, seed_words)], 2)
    words = [read_words(text, rouge_score_words) for text in (prediction, reference)]
    return (bleu_2 + rouge_f(plain_pair(*words), "rouge1", strict=True)) / 2
