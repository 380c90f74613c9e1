"""METEOR of one answer: words aligned by form, stem and synonym, in few chunks (Rm, semantic coherence)."""

import logging
from collections.abc import Iterable
from functools import cache
from operator import sub
from typing import Any, Literal

from omnirl_core.rewards.overlap.content import LIGHT_WEIGHT, Weighing, asked, weigh
from omnirl_core.rewards.overlap.wordnet import Synonyms, wordnet
from omnirl_core.rewards.overlap.words import Words, chained, cut_by, read_words
from omnirl_core.rewards.reward import on_answer
from omnirl_core.text import reference_texts
from omnirl_core.type_checks import check_choice

logger = logging.getLogger(__name__)

FREE = -2
"""Partner of a word without one; not -1, which would stand next to 0 and so look like a chunk."""

MOST_LOOKED_UP = 1_000
"""Words of one text whose synonyms are looked up: a text with more without a partner scores next to nothing."""


@on_answer
def meteor(
    prediction: str,
    reference: Any,
    *,
    synonyms: Literal["wordnet", "none"] = "wordnet",
    alpha: float = 0.9,
    beta: float = 3.0,
    gamma: float = 0.5,
    numbers: bool = False,
    compat: Literal["nltk"] | None = None,
    light: float = LIGHT_WEIGHT,
    prompt: Any = None,
    problem: str | None = None,
) -> float | None:
    """METEOR in [0, 1]; identical text is 1.0. The best of several references counts.

    Words are matched by form, then by stem, then by synonym; `alpha` weighs recall against precision, `beta`
    and `gamma` shape the penalty for broken order (Lavie and Agarwal, WMT 2007), which is nothing where the
    whole of both texts is one chunk. Where the question is known (columns `problem`, `prompt`), its words and
    function words weigh `light`, see content.py; 1 weighs all alike. `compat="nltk"` gives nltk's meteor_score on
    the same tokens: it looks for synonyms of stems (so it misses big/large), and gives one identical word 0.5.

    >>> meteor("a big dog", "a large dog"), meteor("Paris", "Paris"), meteor("cat", "tree")
    (1.0, 1.0, 0.0)
    """
    references = reference_texts(reference)
    if references is None:
        return None
    check_choice("compat", compat, (None, "nltk"))
    if not (0 < alpha < 1 and beta >= 0 and 0 <= gamma <= 1):
        raise ValueError(
            f"alpha: {alpha}, beta: {beta}, gamma: {gamma} must lie in (0, 1), from 0 on, in [0, 1]"
        )
    table = synonym_table(synonyms)
    cut = cut_by(numbers, compat)
    predicted = read_words(prediction, cut)
    shape = (alpha, beta, gamma)
    question = asked(prompt, problem, light) if compat is None else ""
    if question:
        return max(
            weighted_meteor(pair, table, shape)
            if (pair := weigh(prediction, reference, question, light))
            else aligned_score(predicted, read_words(reference, cut), table, shape)
            for reference in references
        )
    return max(
        aligned_score(predicted, read_words(reference, cut), table, shape, compat == "nltk")
        for reference in references
    )


def synonym_table(synonyms: str) -> Synonyms | None:
    check_choice("synonyms", synonyms, ("wordnet", "none"))
    if synonyms == "wordnet":
        return wordnet()
    _say_once("METEOR runs without synonyms (synonyms: none): paraphrases score lower")
    return None


@cache
def _say_once(message: str) -> None:
    logger.warning(message)


def aligned_score(
    predicted: Words,
    reference: Words,
    table: Synonyms | None,
    shape: tuple[float, float, float] = (0.9, 3.0, 0.5),
    as_nltk: bool = False,
) -> float:
    """METEOR of one pair; `shape` is (alpha, beta, gamma)."""
    if not predicted.words or not reference.words:
        return float(
            not as_nltk and not predicted.words and not reference.words and predicted.same_text(reference)
        )
    partners = align(predicted, reference, table, as_nltk)
    matched = len(partners) - partners.count(FREE)
    if not matched:
        return 0.0
    chunks = matched - list(map(sub, partners[1:], partners)).count(
        1
    )  # a partner next to the last one: same chunk
    if not as_nltk and chunks == 1 and matched == len(predicted) == len(reference):
        return 1.0  # as in METEOR 1.5: one chunk that covers both texts is not fragmented
    alpha, beta, gamma = shape
    precision, recall = matched / len(predicted), matched / len(reference)
    mean = (precision * recall) / (alpha * precision + (1 - alpha) * recall)
    return (1 - gamma * (chunks / matched) ** beta) * mean


def weighted_meteor(
    pair: Weighing, table: Synonyms | None, shape: tuple[float, float, float] = (0.9, 3.0, 0.5)
) -> float:
    """METEOR whose words are weighted; the alignment and its chunks are of the content words."""
    predicted, reference = pair.predicted, pair.reference
    partners = align(predicted, reference, table)
    found = len(partners) - partners.count(FREE)
    matched = found + pair.light_matched
    if not matched:
        return 0.0
    alpha, beta, gamma = shape
    chunks = found - list(map(sub, partners[1:], partners)).count(1)
    whole = chunks == 1 and found == len(predicted) == len(reference)
    fragmented = 0.0 if whole else (chunks / found) ** beta if found else 1.0
    precision, recall = matched / pair.size, matched / pair.reference_size
    if precision == recall:  # both 1.0 for the same text, which the quotient below may miss by a bit
        return (1 - gamma * fragmented) * precision
    mean = (precision * recall) / (alpha * precision + (1 - alpha) * recall)
    return (1 - gamma * fragmented) * mean


def align(predicted: Words, reference: Words, table: Synonyms | None, as_nltk: bool = False) -> list[int]:
    """For each predicted word the place of its partner in the reference, or FREE.

    Words are matched by form, then by stem, then by synonym; in each stage from the last word to the first, each
    with its last free partner.
    """
    partners = [FREE] * len(predicted)
    last, before = reference.chains
    left = _match(partners, predicted.words, range(len(predicted) - 1, -1, -1), last.copy(), before)
    free: Iterable[int] = range(len(reference))
    if left:
        free = _still_free(free, partners)
        left = _match(partners, predicted.stems, left, *chained(reference.stems, free))
    if left and table is not None:  # an unused table is empty
        theirs, ours = (predicted.stems, reference.stems) if as_nltk else (predicted.words, reference.words)
        left = left if as_nltk else left[:MOST_LOOKED_UP]
        _match_synonyms(partners, theirs, left, *chained(ours, _still_free(free, partners)), table)
    return partners


def _still_free(places: Iterable[int], partners: list[int]) -> list[int]:
    taken = set(partners)
    return [place for place in places if place not in taken]


def _match(
    partners: list[int], words: list[str], left: Iterable[int], last: dict[str, int], before: list[int]
) -> list[int]:
    """Give each place that is left the last free place of an equal word; returns those that stay alone."""
    alone = []
    for place in left:
        word = words[place]
        partner = last.get(word, FREE)
        if partner == FREE:
            alone.append(place)
        else:
            partners[place] = partner
            last[word] = before[partner]
    return alone


def _match_synonyms(
    partners: list[int],
    words: list[str],
    left: list[int],
    last: dict[str, int],
    before: list[int],
    table: Synonyms,
) -> None:
    open_words = last.keys()
    for place in left:
        near = table[words[place]]
        if not open_words.isdisjoint(near):
            word = max(open_words & near, key=last.__getitem__)
            partner = partners[place] = last[word]
            if before[partner] == FREE:
                del last[word]
            else:
                last[word] = before[partner]
