"""BLEU, ROUGE and METEOR of one answer: its wording, its coverage of key information, its words in their order.

Where the question is known (columns `problem`, `prompt`), its words and function words weigh `light` (content.py;
1 weighs all alike). `compat` gives the values of a library on the same tokens, without weights.
"""

import logging
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate, chain
from operator import sub
from typing import Literal

import numpy as np
from rapidfuzz.distance import LCSseq

from omnirl_core.rewards.overlap.content import LIGHT_WEIGHT, Pair, asked, pairs, split, split_reference
from omnirl_core.rewards.overlap.words import Cut, Synonyms, Words, cut_by, read_words, rouge_score_words, wordnet
from omnirl_core.rewards.reward import on_answer
from omnirl_core.text import reference_texts
from omnirl_core.types import check_choice

logger = logging.getLogger(__name__)

Variant = Literal["rouge1", "rouge2", "rougeL", "rougeLsum"]
ORDER = {"rouge1": 1, "rouge2": 2, "rougeL": 0, "rougeLsum": 0}
MOST_LINES, MOST_LINED = 50, 700
"""Lines and words of a text that rougeLsum compares; further lines are part of the last, further words surplus."""
Shape = tuple[float, float, float]
"""METEOR's alpha, beta and gamma."""
USUAL_SHAPE: Shape = (0.9, 3.0, 0.5)

FREE = -2
"""Partner of a word without one; not -1, which would stand next to 0 and so look like a chunk."""

MOST_LOOKED_UP = 1_000
"""Words of one text whose synonyms are looked up: a text with more without a partner scores next to nothing."""


@on_answer
def bleu(
    prediction: str,
    reference: object,
    *,
    max_order: int = 4,
    compat: Literal["nltk"] | None = None,
    numbers: bool = False,
    light: float = LIGHT_WEIGHT,
    prompt: object = None,
    problem: str | None = None,
) -> float | None:
    """Smoothed sentence BLEU in [0, 1]; identical text is 1.0. The best of several references counts.

    The order is the longest that both texts allow, up to `max_order`; from bigrams on one match and one
    n-gram are added (Lin and Och, ORANGE, COLING 2004). `numbers` keeps each number in one token.
    `light` weighs words of the question and function words. `compat="nltk"` gives nltk's `sentence_bleu`,
    unsmoothed.

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
    if compat == "nltk":
        wanted = [read_words(reference, cut) for reference in references]
        return nltk_bleu(read_words(prediction, cut), wanted, max_order)
    question = asked(prompt, problem, light)
    return max(smoothed_bleu(pair, max_order) for pair in pairs(prediction, references, cut, question, light))


@on_answer
def rouge(
    prediction: str,
    reference: object,
    variant: Variant = "rougeL",
    *,
    numbers: bool = False,
    compat: Literal["rouge_score"] | None = None,
    light: float = LIGHT_WEIGHT,
    prompt: object = None,
    problem: str | None = None,
) -> float | None:
    """ROUGE F1 with Porter stems in [0, 1]; identical text is 1.0. The best reference counts.

    `rougeL` (longest common subsequence) sees the order of words, `rouge1` and `rouge2` (words, bigrams) do not;
    `rougeLsum` sees it within lines, for summaries of one sentence a line in any order.
    `light` weighs words of the question and function words. `compat="rouge_score"` gives
    `RougeScorer([variant], use_stemmer=True)`, which drops all but ASCII.

    >>> rouge("the cat sat", "the cat sat down"), rouge("sat cat the", "the cat sat", "rouge1")
    (0.857..., 1.0)
    """
    references = reference_texts(reference)
    if references is None:
        return None
    check_choice("variant", variant, ORDER)
    check_choice("compat", compat, (None, "rouge_score"))
    cut = rouge_score_words if compat else cut_by(numbers)
    question = "" if compat else asked(prompt, problem, light)
    found = pairs(prediction, references, cut, question, light)
    if variant != "rougeLsum":
        return max(rouge_f(pair, variant, strict=compat is not None) for pair in found)
    lines = [_lines(prediction, text, cut, question) for text in references]
    wanted = [_lines(text, text, cut, question) for text in references]
    same = [prediction.split() == text.split() for text in references]
    hits = [
        len(p.predicted) if s else _union_hits(*sides) for p, s, *sides in zip(found, same, wanted, lines, strict=True)
    ]
    return max(rouge_f(pair, variant, compat is not None, n) for pair, n in zip(found, hits, strict=True))


@on_answer
def meteor(
    prediction: str,
    reference: object,
    *,
    synonyms: Literal["wordnet", "none"] = "wordnet",
    numbers: bool = False,
    alpha: float = 0.9,
    beta: float = 3.0,
    gamma: float = 0.5,
    compat: Literal["nltk"] | None = None,
    light: float = LIGHT_WEIGHT,
    prompt: object = None,
    problem: str | None = None,
) -> float | None:
    """METEOR in [0, 1]; identical text is 1.0. The best of several references counts.

    Words are matched by form, then by stem, then by synonym; `alpha` weighs recall against precision, `beta`
    and `gamma` shape the penalty for broken order (Lavie and Agarwal, WMT 2007), which is nothing where the
    whole of both texts is one chunk. `light` weighs words of the question and function words. `compat="nltk"`
    gives nltk's meteor_score: it looks for synonyms of stems (so it misses big/large), and gives one identical
    word 0.5.

    >>> meteor("a big dog", "a large dog"), meteor("Paris", "Paris"), meteor("cat", "tree")
    (1.0, 1.0, 0.0)
    """
    references = reference_texts(reference)
    if references is None:
        return None
    check_choice("compat", compat, (None, "nltk"))
    if not (0 < alpha < 1 and beta >= 0 and 0 <= gamma <= 1):
        raise ValueError(f"alpha: {alpha}, beta: {beta}, gamma: {gamma} must lie in (0, 1), from 0 on, in [0, 1]")
    table, shape = synonym_table(synonyms), (alpha, beta, gamma)
    cut = cut_by(numbers, compat)
    question = "" if compat else asked(prompt, problem, light)
    found = pairs(prediction, references, cut, question, light)
    return max(aligned_score(pair, table, shape, as_nltk=compat is not None) for pair in found)


# --- BLEU ---


def smoothed_bleu(pair: Pair, max_order: int = 4) -> float:
    """BLEU of one pair: unigrams by their weights, longer n-grams over the content words alone."""
    predicted, reference = pair.predicted, pair.reference
    if pair.is_wordless:
        return pair.same_marks
    shared = predicted.shared(reference, 1)
    precision = (shared + pair.light_matched) / pair.size
    if shared:
        size, order = len(predicted), min(max_order, len(predicted), len(reference))
        logs = [math.log(precision)]
        logs += [math.log((predicted.shared(reference, n) + 1) / (size - n + 2)) for n in range(2, order + 1)]
        precision = math.exp(sum(logs) / order)
    return brevity(pair.size, pair.reference_size) * precision


def nltk_bleu(predicted: Words, references: Sequence[Words], max_order: int) -> float:
    """nltk's BLEU of one sentence: counts clipped by the best reference, length of the closest one."""
    size = len(predicted)
    shared = [_shared_with_any(predicted, references, order) for order in range(1, max_order + 1)]
    if not shared[0]:
        return 0.0
    # nltk's method0 puts the smallest float in the place of a precision of zero
    precisions = [m / max(1, size - n) if m else sys.float_info.min for n, m in enumerate(shared)]
    closest = min(map(len, references), key=lambda length: (abs(length - size), length))
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


# --- ROUGE ---


def rouge_f(pair: Pair, variant: Variant, strict: bool = False, hits: int = 0) -> float:
    """F1 of one pair; subsequences and bigrams run over the content words alone.

    `strict` leaves texts without tokens, and bigrams of one word, at the library's 0.0. `hits` are rougeLsum's.
    """
    predicted, reference = pair.predicted, pair.reference
    if pair.is_wordless:
        return 0.0 if strict else pair.same_marks
    if variant == "rougeLsum":
        order, shared = 1, hits
    elif variant == "rougeL":
        order, shared = 1, LCSseq.similarity(predicted.rouge_stems, reference.rouge_stems)
    else:
        order = ORDER[variant] if strict else min(ORDER[variant], len(predicted), len(reference)) or 1
        shared = predicted.shared(reference, order, stemmed=True)
    matched = shared + pair.light_matched
    if not matched:
        return 0.0
    # rouge_score's operations, in its order
    precision, recall = matched / (pair.size - order + 1), matched / (pair.reference_size - order + 1)
    return 2 * precision * recall / (precision + recall)


def _lines(text: str, reference: str, cut: Cut, question: str) -> list[list[str]]:
    """The stems of each line; of its content words alone where the reference is weighed by the question."""
    *first, rest = text.split("\n", MOST_LINES - 1)
    lines = [Words(line, cut(line)) for line in (*first, rest.replace("\n", " "))]
    if question:
        known, wanted = split_reference(reference, question)
        lines = [split(line, known).content for line in lines] if wanted.content.words else lines
    stems = [line.rouge_stems for line in lines]
    ends = list(accumulate(map(len, stems)))
    return [line[: max(0, len(line) - end + MOST_LINED)] for line, end in zip(stems, ends, strict=True)]


def _union_hits(wanted: list[list[str]], said: list[list[str]]) -> int:
    """rouge_score's summary-level LCS: words of reference lines in a common subsequence with any line of the answer."""
    left = [Counter(chain.from_iterable(lines)) for lines in (wanted, said)]
    numbers = {word: number for number, word in enumerate(left[1])}
    columns = np.array([n for line in said for n in (-1, *map(numbers.__getitem__, line))])  # -1 before each line
    lifts = np.cumsum(columns == -1) * (MOST_LINED + 1)  # keep the running maximum within a line
    hits = 0
    for line in wanted:
        rows = [np.zeros(len(columns), dtype=np.int64)]
        for word in line:
            row = rows[-1].copy()
            places = np.flatnonzero(columns == numbers.get(word, -2))
            row[places] = rows[-1][places - 1] + 1
            rows.append(np.maximum.accumulate(row + lifts) - lifts)
        for place in sorted(_common_places(line, said, [row.tolist() for row in rows])):
            if all(counts[line[place]] > 0 for counts in left):
                hits += 1
                for counts in left:
                    counts[line[place]] -= 1
    return hits


def _common_places(line: list[str], said: list[list[str]], rows: list[list[int]]) -> set[int]:
    """Places in `line` of its longest common subsequences with each line said, those that rouge_score finds.

    `rows` holds their lengths: a row for each word of `line`, a column for each word said and before each line said.
    """
    places, first = set(), 0
    for other in said:
        i, j = len(line), len(other)
        while i and j and rows[i][first + j]:
            if line[i - 1] == other[j - 1]:
                i, j = i - 1, j - 1
                places.add(i)
            elif rows[i][first + j - 1] > rows[i - 1][first + j]:
                j -= 1
            else:
                i -= 1
        first += len(other) + 1
    return places


# --- METEOR ---


def synonym_table(synonyms: str) -> Synonyms | None:
    check_choice("synonyms", synonyms, ("wordnet", "none"))
    if synonyms == "wordnet":
        return wordnet()
    _say_once("METEOR runs without synonyms (synonyms: none): paraphrases score lower")
    return None


@cache
def _say_once(message: str) -> None:
    logger.warning(message)


def aligned_score(pair: Pair, table: Synonyms | None, shape: Shape = USUAL_SHAPE, as_nltk: bool = False) -> float:
    """METEOR of one pair; the alignment and its chunks are of the content words."""
    predicted, reference = pair.predicted, pair.reference
    if pair.is_wordless:
        return 0.0 if as_nltk else pair.same_marks
    partners = align(predicted, reference, table, as_nltk)
    found = len(partners) - partners.count(FREE)
    matched = found + pair.light_matched
    if not matched:
        return 0.0
    alpha, beta, gamma = shape
    # Next to the last partner: the same chunk
    chunks = found - list(map(sub, partners[1:], partners)).count(1)
    # as in METEOR 1.5: one chunk that covers both texts is not fragmented
    whole = not as_nltk and chunks == 1 and found == len(predicted) == len(reference)
    fragmented = 0.0 if whole else (chunks / found) ** beta if found else 1.0
    precision, recall = matched / pair.size, matched / pair.reference_size
    # Both 1.0 for the same text, which the quotient may miss by a bit
    if precision == recall and not as_nltk:
        return (1 - gamma * fragmented) * precision
    mean = (precision * recall) / (alpha * precision + (1 - alpha) * recall)
    return (1 - gamma * fragmented) * mean


def align(predicted: Words, reference: Words, table: Synonyms | None, as_nltk: bool = False) -> list[int]:
    """For each predicted word the place of its partner in the reference, or FREE.

    Words are matched by form, then by stem, then by synonym; in each stage from the last word to the first, each
    with its last free partner.
    """
    partners = [FREE] * len(predicted)
    left = _match(partners, predicted.words, range(len(predicted) - 1, -1, -1), reference.words)
    if left:
        left = _match(partners, predicted.stems, left, reference.stems)
    if left and table is not None:  # an unused table is empty
        ours, theirs = (predicted.stems, reference.stems) if as_nltk else (predicted.words, reference.words)
        _match(partners, ours, left if as_nltk else left[:MOST_LOOKED_UP], theirs, table)
    return partners


def _match(
    partners: list[int], words: list[str], left: Iterable[int], others: list[str], table: Synonyms | None = None
) -> list[int]:
    """Give each place that is left the last free place of an equal word, or of a synonym; returns those alone."""
    free: dict[str, list[int]] = {}
    taken = set(partners)
    for place, word in enumerate(others):
        if place not in taken:
            free.setdefault(word, []).append(place)
    alone = []
    for place in left:
        word = words[place]
        if table is not None:
            word = max(free.keys() & table[word], key=lambda one: free[one][-1], default="")
        if word in free:
            partners[place] = free[word].pop()
            if not free[word]:
                del free[word]
        else:
            alone.append(place)
    return alone
