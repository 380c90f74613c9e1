"""Rewards for short answers by the rules of their benchmarks: SQuAD's F1, VQA's annotators, patterns, near numbers."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from omnirl_core.rewards.answers.answers import best_of_references, normal_text
from omnirl_core.rewards.answers.numbers import comparable_values, pick_quantity, read_quantity
from omnirl_core.rewards.overlap.content import LIGHT_WEIGHT, asks, weigh
from omnirl_core.rewards.overlap.contradiction import contradictions
from omnirl_core.rewards.reward import on_answer
from omnirl_core.text import SOLO, UNSPACED, reference_texts, tokens

MOST_SEARCHED = 10_000  # characters of an answer that a pattern is tried on

CONTRADICTED = 0.1
"""What is left of a score for each kind of fact that the answer has otherwise."""

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_UNSPACED = re.compile(f"[{SOLO}{''.join(UNSPACED)}]")


def fact_share(prediction: str, reference: str, question: str) -> float:
    """What an answer's facts let it earn, in [0, 1]; 1.0 where the question is not known.

    0.0 without a word of the reference that is neither of the question nor a function word; else `CONTRADICTED` for
    each kind of fact that the answer has otherwise (denial, number, unit, colour, name, one of two to choose from).

    >>> question, reference = "What color is the car?", "The car is red."
    >>> [fact_share(answer, reference, question) for answer in ("The car is", "The car is blue", "red", "not red")]
    [0.0, 0.0, 1.0, 0.1]
    """
    if not question:
        return 1.0
    pair = weigh(prediction, reference, question, LIGHT_WEIGHT)
    if pair is not None and not pair.predicted.shared(pair.reference, 1, stemmed=True):
        return 0.0
    return float(CONTRADICTED ** contradictions(prediction, reference, question))


@on_answer
@asks
@best_of_references
def token_f1(prediction: str, solution: str, *, needs_fact: bool = True, question: str) -> float | None:
    """SQuAD's F1 of the words of answer and reference, in [0, 1]; the best of several references counts.

    Lower case, without punctuation and the articles a, an, the (Rajpurkar et al. 2016); of languages without spaces
    one token an ideograph or letter. Where the question is known (columns `problem`, `prompt`), an answer without a
    word of the reference beyond the question's earns 0.0, and one that has a fact otherwise a tenth;
    `needs_fact: false` is SQuAD's F1, for answers made of the prompt's words.

    >>> token_f1("the red car", "A red bus!"), token_f1("Paris", ["Lyon", "paris"])
    (0.5, 1.0)
    """
    unspaced = _UNSPACED.search(prediction) or _UNSPACED.search(solution)
    said, wanted = (tokens(text) if unspaced else squad_words(text) for text in (prediction, solution))
    if not said or not wanted:  # SQuAD: both empty is right
        return float(said == wanted and prediction.split() == solution.split())
    shared = (Counter(said) & Counter(wanted)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(said), shared / len(wanted)
    share = fact_share(prediction, solution, question) if needs_fact else 1.0
    return share * 2 * precision * recall / (precision + recall)


def squad_words(text: str) -> list[str]:
    """Words in SQuAD's normal form.

    >>> squad_words("The U.S. won, 3.5 to a 2")
    ['us', 'won', '35', 'to', '2']
    """
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


@on_answer
def vqa_accuracy(prediction: str, solution: object) -> float | None:
    """VQAv2's accuracy: the answers of (ten) people, and 1.0 where three others say the same, in [0, 1].

    The mean over people of min(others that agree / 3, 1), in VQA's normal form: number words as digits, no articles,
    apostrophes put back, no punctuation. Of k < 4 people all others have to agree; one reference is right or wrong.
    `solution` is the list of their answers, texts or dicts with `answer`.

    >>> people = ["net"] * 3 + ["the net"] * 2 + ["a fence"] * 5
    >>> vqa_accuracy("Net.", people), vqa_accuracy("fence", people[3:8]), vqa_accuracy("racket", people)
    (1.0, 0.79..., 0.0)
    """
    listed = solution if isinstance(solution, list | tuple) else [solution]
    wanted = [text for one in listed for text in reference_texts(one) or ()]
    if not wanted:
        return None
    said = vqa_form(prediction)
    hits = [vqa_form(text) == said for text in wanted]
    if len(hits) == 1:
        return float(hits[0])
    agree, enough = sum(hits), min(3, len(hits) - 1)
    return sum(min(1.0, (agree - hit) / enough) for hit in hits) / len(hits)


_VQA_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am mightn't mightn't've might've "
    "mustn't must've needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that'd "
    "that'd've that's there'd there'd've there're there's they'd they'd've they'll they're they've wasn't "
    "we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all you'd you'd've you'll you're you've"
)
_FULL_STOP = re.compile(r"\.(?!\d)")
_VQA_NUMBERS = "none zero one two three four five six seven eight nine ten"


_VQA_WORDS = (
    {form.replace("'", ""): form for form in _CONTRACTED.split()}
    | {word: str(max(0, value - 1)) for value, word in enumerate(_VQA_NUMBERS.split())}
    | dict.fromkeys(("a", "an", "the"), "")
)
"""Word -> its normal form; "" for an article."""


def vqa_form(text: str) -> str:
    """A short answer in the normal form of VQA's evaluation.

    >>> vqa_form("The two dont's, 1,000 cars."), vqa_form("yes/no")
    ("2 dont's 1000 cars", 'yes no')
    """
    text = " ".join(text.split())
    in_number = re.search(r"\d,\d", text) is not None
    marks = [mark for mark in _VQA_MARKS if mark in text]
    spaces: dict[str, str | int | None] = {
        mark: "" if in_number or f"{mark} " in text or f" {mark}" in text else " " for mark in marks
    }
    text = _FULL_STOP.sub("", text.translate(str.maketrans(spaces)))
    words = (_VQA_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(word for word in words if word)


@on_answer
@asks
@best_of_references
def contains(
    prediction: str, solution: str, *, surplus: int = 30, case_sensitive: bool = False, question: str
) -> float | None:
    """1.0 where the answer has the reference in it, as whole words, else 0.0: case, spacing and width aside.

    An answer with more than `surplus` words beside the reference's is 0.0, as is one that contradicts it: a denial,
    another number, unit, colour or name, both of two things to choose from, the question alone.

    >>> contains("It is Paris, I think", "Paris"), contains("Parisian", "Paris"), contains("not Paris", "Paris")
    (1.0, 0.0, 0.0)
    """
    if len(prediction) > 50 * (len(solution) + surplus):
        return 0.0
    said, wanted = (normal_text(text, case_sensitive) for text in (prediction, solution))
    first, last = (r"\b" if char.isascii() and char.isalnum() else "" for char in (wanted[0], wanted[-1]))
    found = re.search(f"{first}{re.escape(wanted)}{last}", said) if wanted in said else None
    if found is None or len(tokens(said)) > len(tokens(wanted)) + surplus:
        return 0.0
    echoed = bool(question) and normal_text(question, case_sensitive) in said and said not in wanted
    return float(not echoed and not contradictions(prediction, solution, question))


@on_answer
def regex(
    prediction: str,
    solution: object = None,
    *,
    pattern: str | None = None,
    part: bool = False,
    case_sensitive: bool = True,
    timeout_s: float = 0.05,
) -> float | None:
    r"""1.0 where the answer matches the pattern, else 0.0: the reference is the pattern unless `pattern` sets one.

    The whole answer has to match, with `part` any part of it. Matching stops after `timeout_s` and is 0.0 then, as
    is an answer of over 10,000 characters. None where the reference is no pattern. A pattern for all samples
    (`pattern`) says nothing about truth: gate it.

    >>> regex("12.05.2024", r"\d{2}\.\d{2}\.\d{4}"), regex("on 3 May", r"\d+ \w+"), regex("a" * 40, "(a+)+b")
    (1.0, 0.0, 0.0)
    """
    patterns = [pattern] if pattern is not None else reference_texts(solution) or []
    scores = []
    for text in patterns:
        compiled = _compiled(text, case_sensitive)
        if isinstance(compiled, str):
            if pattern is not None:
                raise ValueError(f"pattern: {pattern!r} is no regular expression: {compiled}")
            continue
        scores.append(_matches(compiled, prediction, part, timeout_s / len(patterns)))
    return max(scores, default=None)


@lru_cache(maxsize=256)
def _compiled(text: str, case_sensitive: bool) -> Any:
    """The pattern, or why it is none."""
    import regex as with_timeout  # `re` cannot be stopped

    if len(text) > 1000:
        return "over 1,000 characters"
    try:
        return with_timeout.compile(text, 0 if case_sensitive else with_timeout.IGNORECASE)
    except (with_timeout.error, OverflowError, RecursionError, ValueError, KeyError, IndexError) as error:
        return str(error)


def _matches(compiled: Any, text: str, part: bool, timeout_s: float) -> float:
    if len(text) > MOST_SEARCHED:
        return 0.0
    try:
        return float((compiled.search if part else compiled.fullmatch)(text, timeout=timeout_s) is not None)
    except TimeoutError:
        return 0.0


@on_answer
@best_of_references
def soft_number(prediction: str, solution: str, *, limit: float = 0.5) -> float | None:
    """1 - relative error / `limit`, in [0, 1], of the only number of the answer; None where the reference is none.

    Numbers and units are read as `number` reads them. A year, and 0, has no neighbours: it is right or wrong. The
    larger `limit` is, the more a guess of the usual size earns.

    >>> soft_number("90", 100), soft_number("1 m", "100 cm"), soft_number("40", 100), soft_number("1990", 2000)
    (0.8, 1.0, 0.0, 0.0)
    """
    wanted = read_quantity(solution)
    if wanted is None:
        return None
    found = pick_quantity(prediction, "only")
    values: Sequence[Any] = [] if found is None else comparable_values(found, wanted)
    if not values:
        return 0.0
    error = min(abs(value - wanted.value) for value in values)
    if not error or wanted.year or not wanted.value:
        return float(not error)
    # exact until here: a float of 10**400 is none
    return float(max(0, 1 - min(1, error / abs(wanted.value) / type(error)(limit))))
