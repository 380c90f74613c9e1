"""Rewards for captions and other free text beside the unified accuracy: CIDEr-D, chrF, ordered key phrases."""

import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from omnirl_core.rewards.answers.short_answers import fact_share
from omnirl_core.rewards.overlap.content import LIGHT_WEIGHT, asks, weigh
from omnirl_core.rewards.reward import on_answer
from omnirl_core.text import reference_texts, tokens

Grams = tuple[str, ...]
ORDERS = 4
WIDTH = 6.0  # of CIDEr-D's penalty for another length
CHARACTERS = 6  # chrF's longest n-gram
MOST_MATCHED = 10_000  # characters of an answer whose n-grams chrF matches; the rest counts as surplus
MOST_WORDS = 2_000


@on_answer
@asks
def cider(
    prediction: str,
    solution: object,
    *,
    frequencies: str | None = None,
    best: bool = False,
    needs_fact: bool = True,
    question: str,
) -> float | None:
    """CIDEr-D / 10 in [0, 1], the mean over the references, with `best` the best of them; the one reference is 1.0.

    n-grams of up to four words weigh by how few references of the training data have them (Vedantam, Zitnick and
    Parikh, CVPR 2015): `frequencies` is the file that scripts/caption_frequencies.py made of them, relative to the
    rewards.yaml; without one all weigh alike. References of under four words have shorter n-grams only.

    >>> cider("a dog runs on grass", "A dog runs on grass."), cider("a cat", "the dog")
    (1.0, 0.0)
    """
    references = reference_texts(solution)
    said = _vectors(prediction, frequencies)
    if references is None:
        return None
    share = max(fact_share(prediction, reference, question) for reference in references) if needs_fact else 1.0
    scores = [_cider_d(said, _vectors(text, frequencies)) for text in references]
    return share * min(1.0, max(scores) if best else sum(scores) / len(scores))


Vectors = tuple[list[dict[Grams, float]], list[float], int]
"""For each order the n-grams with their weights and the norm; and the number of bigrams, which is CIDEr-D's length."""


@lru_cache(maxsize=64)
def _vectors(text: str, frequencies: str | None) -> Vectors:
    words = tokens(text)[:MOST_WORDS]
    most, known = (1.0, {}) if frequencies is None else _read_frequencies(frequencies)
    weights: list[dict[Grams, float]] = []
    for order in range(1, ORDERS + 1):
        counts = Counter(zip(*(words[k:] for k in range(order)), strict=False))
        weights.append(
            {gram: n * max(0.0, most - math.log(max(1, known.get(" ".join(gram), 0)))) for gram, n in counts.items()}
        )
    return weights, [math.sqrt(sum(w * w for w in one.values())) for one in weights], max(0, len(words) - 1)


def _cider_d(said: Vectors, wanted: Vectors) -> float:
    total, orders = 0.0, min(ORDERS, wanted[2] + 1)
    for ours, theirs, norm, their_norm in zip(said[0], wanted[0], said[1], wanted[1], strict=True):
        if norm and their_norm:
            products = [min(weight, theirs[gram]) * theirs[gram] for gram, weight in ours.items() if gram in theirs]
            total += sum(products) / (norm * their_norm)
    return total / orders * math.exp(-((said[2] - wanted[2]) ** 2) / (2 * WIDTH**2))


@lru_cache(maxsize=4)
def _read_frequencies(path: str) -> tuple[float, Mapping[str, int]]:
    """The logarithm of how many documents there are, and of how many each n-gram is."""
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
        return math.log(read["documents"]), read["ngrams"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "make it with scripts/caption_frequencies.py"
        raise ValueError(f"frequencies: {path!r} is no file of document frequencies ({error}); {remedy}") from error


def document_frequencies(solutions: Iterable[object]) -> dict[str, object]:
    """What `frequencies` reads: of how many solutions each n-gram is, in any of their references.

    >>> document_frequencies(["a dog", ["a cat", "the cat"]])["ngrams"]["a"]
    2
    """
    counts: Counter[str] = Counter()
    documents = 0
    for texts in filter(None, map(reference_texts, solutions)):
        documents += 1
        counts.update({" ".join(gram) for text in texts for one in _vectors(text, None)[0] for gram in one})
    return {"documents": documents, "ngrams": dict(counts)}


@on_answer
@asks
def chrf(
    prediction: str, solution: object, *, beta: float = 2.0, needs_fact: bool = True, question: str
) -> float | None:
    """chrF in [0, 1]: F of n-grams of one to six characters, recall `beta` times as heavy (Popović, WMT 2015).

    sacrebleu's, of one sentence; the best of several references counts. White space does not count, case does.

    >>> chrf("a red car", "a red car"), round(chrf("a red cart", ["a blue bus", "a red car"]), 3)
    (1.0, 0.952)
    """
    references = reference_texts(solution)
    if references is None:
        return None
    said = "".join(prediction.split())
    shares = {text: fact_share(prediction, text, question) if needs_fact else 1.0 for text in references}
    return max(share and share * _chrf(said, "".join(text.split()), beta) for text, share in shares.items())


def _chrf(said: str, wanted: str, beta: float) -> float:
    if said == wanted:
        return 1.0
    precision = recall = 0.0
    orders = min(CHARACTERS, len(said), len(wanted))
    for order in range(1, orders + 1):
        allowed = Counter(wanted[k : k + order] for k in range(len(wanted) - order + 1))
        head = said[:MOST_MATCHED]
        found = Counter(head[k : k + order] for k in range(len(head) - order + 1))
        shared = sum(min(n, found[gram]) for gram, n in allowed.items() if gram in found)
        precision += shared / (len(said) - order + 1) / orders
        recall += shared / (len(wanted) - order + 1) / orders
    if not precision:
        return 0.0
    return min(1.0, (1 + beta**2) * precision * recall / (beta**2 * precision + recall))


@on_answer
@asks
def keywords(prediction: str, solution: object, *, surplus: int = 100, question: str) -> float | None:
    """Share of the reference's key phrases that the answer has in their order, in [0, 1] (after RLVRR, 2026).

    The phrases are the list `keywords` of the solution; of a plain text they are its words that are neither function
    words nor the question's, and a fact that the answer has otherwise leaves a tenth. The score falls with each word
    over twice the reference's length plus `surplus`.

    >>> keywords("a dog sleeps on the old sofa", {"keywords": ["dog", "old sofa", "kitchen"]})
    0.6666666666666666
    >>> keywords("sofa dog", "The dog sleeps on the sofa", problem="What is there?")
    0.3333333333333333
    """
    share = 1.0
    if isinstance(solution, Mapping) and "keywords" in solution:
        phrases = [tokens(text) for text in reference_texts(solution["keywords"]) or ()]
        said, size = tokens(prediction), sum(map(len, phrases))
    else:
        texts = reference_texts(solution)
        pair = weigh(prediction, texts[0], question or "?", LIGHT_WEIGHT) if texts else None
        if texts is None or pair is None:
            return None
        share = fact_share(prediction, texts[0], question)
        phrases, said, size = [[w] for w in pair.reference.words], pair.predicted.words, len(tokens(texts[0]))
    phrases = [phrase for phrase in phrases if phrase]
    if not phrases:
        return None
    most = 2 * size + surplus
    return share * _in_order(phrases, said[:most]) / len(phrases) * min(1.0, most / max(1, len(tokens(prediction))))


def _in_order(phrases: list[list[str]], words: list[str]) -> int:
    """How many of the phrases stand in the words in their order, each at a place of its own."""
    line = [0]  # line[k]: where k phrases in order end at the earliest
    for phrase in phrases:
        size, places = len(phrase), [k for k, word in enumerate(words) if word == phrase[0]]
        starts = [k for k in places if words[k : k + size] == phrase]
        for count in range(len(line) - 1, -1, -1):
            at = bisect_left(starts, line[count])
            if at < len(starts):
                end = starts[at] + size
                if count + 1 == len(line):
                    line.append(end)
                else:
                    line[count + 1] = min(line[count + 1], end)
    return len(line) - 1
