"""Rewards for answers that are right or wrong: exact text, choice, yes/no, number, mathematics; and by edits.

Each takes the plain answer; as a reward it is given the text that `text.answer_text` finds. A list of references
holds alternatives, and the best counts (`best_of_references`). A reference that is not of the scorer's kind gives
None, so that `answer` can ask the next scorer.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import wraps
from typing import Any, Literal

from rapidfuzz.distance import Levenshtein

from omnirl_core.rewards.answers import math_verifier
from omnirl_core.rewards.answers.choices import Options, read_choice, read_yes_no, reference_choice, reference_yes_no
from omnirl_core.rewards.answers.evaluated import in_evaluated_form
from omnirl_core.rewards.answers.numbers import half_width, pick_quantity, read_quantity, same_quantity
from omnirl_core.rewards.overlap.content import LIGHT_WEIGHT, asks, question_text, weigh
from omnirl_core.rewards.overlap.overlap import overlap
from omnirl_core.rewards.reward import Scorer, on_answer, reads_columns
from omnirl_core.text import reference_texts, tokens
from omnirl_core.types import check_choice

MAX_CELLS = 400_000_000  # of the edit table: beyond, texts are compared by tokens, to stay below 0.1 s

_OUTER_MARKS = " \t\r\n.,;:!?\"'`*。，；：！？“”‘’「」"


def best_of_references(judge: Scorer) -> Scorer:
    """A scorer of any solution from one of a single reference text: the best counts, None where none is judged."""

    @wraps(judge)
    def scorer(prediction: str, solution: object, **settings: Any) -> float | None:
        references = reference_texts(solution) or ()
        scores = (judge(prediction, reference, **settings) for reference in references)
        return max((score for score in scores if score is not None), default=None)

    return scorer


@on_answer
@best_of_references
def exact(prediction: str, solution: str, *, case_sensitive: bool = False) -> float | None:
    """1.0 where the answer is the reference text, else 0.0: case, spacing, width and outer punctuation aside.

    >>> exact(" The  red Cube. ", "the red cube"), exact("Ｐａｒｉｓ", ["Lyon", "Paris"]), exact("-5", "5")
    (1.0, 1.0, 0.0)
    """
    spaced = " ".join(prediction.split())
    if len(spaced) > 4 * len(solution) + 100:  # no normalisation shrinks a text so much
        return 0.0
    return float(normal_text(spaced, case_sensitive) == normal_text(solution, case_sensitive))


@reads_columns("options")
@on_answer
@best_of_references
def choice(prediction: str, solution: str, *, options: Options = None) -> float | None:
    """1.0 where the answer names the reference option and no other, else 0.0; None where the reference is no option.

    Reads `B`, `(B)`, `b.`, full-width letters, `B. Paris`, "the answer is B", 选B, and with `options`
    (texts in order, or by letter) the text of an option. A reference of several letters asks for all of them.

    >>> choice("（Ｂ）", "B"), choice("A or B", "B"), choice("Paris", "B", options=["Rome", "Paris"])
    (1.0, 0.0, 1.0)
    """
    letters = reference_choice(solution, options)
    return None if letters is None else float(read_choice(prediction, options, letters) == letters)


@on_answer
@best_of_references
def yes_no(prediction: str, solution: str) -> float | None:
    """1.0 where answer and reference both say yes or both say no, else 0.0; None for other references.

    >>> yes_no("Yes, there is.", "yes"), yes_no("没有", False), yes_no("yes, no", "yes"), yes_no("no", "No exit")
    (1.0, 1.0, 0.0, None)
    """
    said = reference_yes_no(solution)
    return None if said is None else float(read_yes_no(prediction) == said)


@on_answer
@best_of_references
def number(
    prediction: str,
    solution: str,
    *,
    relative_tolerance: float | None = None,
    absolute_tolerance: float = 0.0,
    pick: Literal["last", "first", "only"] = "last",
) -> float | None:
    """1.0 where the answer's number is the reference number, else 0.0; None where the reference is no number.

    Reads signs, `1,234.5`, `1e-3`, `3 × 10^5`, `1/2`, `1 1/2`, `50%` (also as 0.5), units (25 cm is 0.25 m; a
    unit missing on one side is no fault), 1.2万, and small number words. A fraction must be in lowest terms,
    unless the reference is not: 1591/43 is no answer. One number counts: the `last`, the
    `first`, or the `only`. Without tolerances whole numbers must be equal, others agree within 1e-9.

    >>> number("It is 1,234.50 km.", 1234.5), number("0.25 m", "25 cm"), number("three dogs", 3)
    (1.0, 1.0, 1.0)
    >>> number("3.1", "3.14"), number("3.1", "3.14", relative_tolerance=0.02), number("5", "a dog")
    (0.0, 1.0, None)
    """
    check_choice("pick", pick, ("last", "first", "only"))
    wanted = read_quantity(solution)
    if wanted is None:
        return None
    found = pick_quantity(prediction, pick)
    if found is None or (wanted.evaluated and not found.evaluated):
        return 0.0
    return float(same_quantity(found, wanted, relative_tolerance, absolute_tolerance))


@on_answer
@best_of_references
def math(
    prediction: str, solution: str, *, timeout_s: float = 2.0, prompt: object = None, problem: object = None
) -> float | None:
    r"""1.0 where the answer equals the reference mathematically, else 0.0; None where the reference is no mathematics.

    math-verify judges (`pip install -e '.[math]'`), in a process of its own; an answer that keeps it busy
    for more than `timeout_s` of CPU time is wrong, as is one over 500 characters. The answer must be worked out
    (rewards/evaluated.py): 37*43 is no answer where 1591 is, and neither is a formula copied from the question.

    >>> math(r"\frac{\sqrt{2}}{2}", r"1/\sqrt{2}"), math("x = 5 or x = 6", "5"), math("37*43", "1591")
    (1.0, 0.0, 0.0)
    """
    reference, said = math_verifier.with_powers_of_ten(solution, prediction)
    wanted = math_verifier.expression(reference)
    if wanted is None:
        return None
    found = math_verifier.expression(said)
    if found is None or math_verifier.hedges(wanted, found):
        return 0.0
    if not in_evaluated_form(found, wanted, question_text(prompt, problem)):
        return None if math_verifier.same_mathematics(wanted, wanted, timeout_s) is None else 0.0
    a, b = read_quantity(found), read_quantity(wanted)
    if a is not None and b is not None:
        if same_quantity(a, b, None, 0.0):
            return 1.0
        if a.unit and b.unit:  # math-verify drops units
            return 0.0
    same = math_verifier.same_mathematics(wanted, found, timeout_s)
    return None if same is None else float(same)


@on_answer
@asks
@best_of_references
def edit_similarity(prediction: str, solution: str, *, floor: float = 0.5, question: str) -> float | None:
    """1 - edit distance / longer length, in [0, 1], and 0.0 up to `floor` (as DocVQA's ANLS does).

    Unrelated sentences are 0.2 to 0.3 alike, which `floor` keeps from paying. Case and spacing aside. Where the
    question is known (columns `problem`, `prompt`), what is not of the question must be alike beyond `floor` too.

    >>> edit_similarity("Main Street", "main streat"), edit_similarity("a cat", "the dog")
    (0.9090909090909091, 0.0)
    """
    similarity = _similarity(prediction, solution, floor)
    pair = weigh(prediction, solution, question, LIGHT_WEIGHT) if similarity and question else None
    if pair is not None and not _similarity(pair.predicted.joined, pair.reference.joined, floor):
        return 0.0
    return similarity


ORDER = ("choice", "yes_no", "number", "math", "exact")


@reads_columns("options")
@on_answer
@best_of_references
def answer(
    prediction: str,
    solution: str,
    *,
    order: Sequence[str] = ORDER,
    options: Options = None,
    relative_tolerance: float | None = None,
    absolute_tolerance: float = 0.0,
    floor: float = 0.5,
    timeout_s: float = 2.0,
    prompt: object = None,
    problem: object = None,
) -> float | None:
    """Score by the first scorer of `order` that can read the reference: one verdict, never a second chance.

    In `order`, `math` takes a reference only when it is written as mathematics (LaTeX, a power, an equation).

    >>> answer("(b)", "B"), answer("no.", "No"), answer("42.0", 42), answer("a cat", "A cat")
    (1.0, 1.0, 1.0, 1.0)
    """
    tolerances = {"relative_tolerance": relative_tolerance, "absolute_tolerance": absolute_tolerance}
    scorers: dict[str, tuple[Scorer, dict[str, Any]]] = {
        "choice": (choice, {"options": options}),
        "yes_no": (yes_no, {}),
        "number": (number, tolerances),
        "math": (math, {"timeout_s": timeout_s, "prompt": prompt, "problem": problem}),
        "exact": (exact, {}),
        "edit_similarity": (edit_similarity, {"floor": floor}),
    }
    if unknown := [name for name in order if name not in scorers]:
        raise ValueError(f"answer: order has {unknown[0]!r}; known: {', '.join(scorers)}")

    for name in order:
        if name == "math" and not _WRITTEN_AS_MATHEMATICS.search(solution):
            continue
        scorer, settings = scorers[name]
        score = scorer(prediction, solution, **settings)
        if score is not None:
            return score
    return None


_WRITTEN_AS_MATHEMATICS = re.compile(r"\\[A-Za-z]{2,}|\$[^$]+\$|\w\s*(?:\^|\*\*)\s*[\w({-]|[\w)]\s*=\s*[\w(-]")


def normal_text(text: str, case_sensitive: bool = False) -> str:
    """The text as `exact` compares it: case, spacing, width and outer punctuation aside."""
    text = unicodedata.normalize("NFKC", text)
    bare = " ".join((text if case_sensitive else text.casefold()).split()).strip(_OUTER_MARKS)
    return bare or text.strip()  # a reference that is all punctuation


def _similarity(prediction: str, reference: str, floor: float) -> float:
    a: Sequence[Any] = " ".join(half_width(prediction).casefold().split())
    b: Sequence[Any] = " ".join(half_width(reference).casefold().split())
    if len(a) * len(b) > MAX_CELLS:
        a, b = tokens(prediction), tokens(reference)
    similarity = Levenshtein.normalized_similarity(a, b)
    return similarity if similarity > floor or similarity == 1.0 else 0.0


LONGEST_TOKENS = 12
"""Of a short answer, so that a sentence without spaces (Chinese, Japanese) is not one word."""


@reads_columns("options")
@on_answer
def answer_or_overlap(
    prediction: str,
    solution: object,
    *,
    most_words: int = 5,
    power: float = 2,
    light: float = LIGHT_WEIGHT,
    contradiction: float = 0.25,
    options: Options = None,
    prompt: object = None,
    problem: str | None = None,
) -> float | None:
    """`answer` for references of up to `most_words` words, `overlap` with `power` for longer ones, in [0, 1].

    `light` and `contradiction` are `overlap`'s: where the question is known, its words earn little. None without a
    readable reference, and for a box: four numbers are no text. A formula or other word without spaces is short,
    whatever its length. With several references the longest decides.

    >>> answer_or_overlap("7", 7), answer_or_overlap("Seven", "a red car"), answer_or_overlap("1", [1, 2, 3, 4])
    (1.0, 0.0, None)
    >>> 0 < answer_or_overlap("a dog on a chair", "a small dog sits on a chair") < 1
    True
    """
    references = reference_texts(solution)
    if references is None or is_box(solution):
        return None
    if all(_is_short(reference, most_words) for reference in references):
        return answer(prediction, solution, options=options, prompt=prompt, problem=problem)
    return overlap(
        prediction, solution, power=power, light=light, contradiction=contradiction, prompt=prompt, problem=problem
    )


def _is_short(reference: str, most_words: int) -> bool:
    words = reference.split()
    if len(words) == 1 and reference.isascii():
        return True
    return len(words) <= most_words and len(tokens(reference)) <= LONGEST_TOKENS


def is_box(solution: object) -> bool:
    """Whether a solution is four numbers."""
    if not isinstance(solution, list | tuple):
        return False
    return len(solution) == 4 and all(isinstance(side, int | float) for side in solution)
