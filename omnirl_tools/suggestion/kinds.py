"""What kind of answer a sample's reference is: a box, a number, an option, several people's answers, a page ..."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from omnirl_core.boxes import parse_labelled_boxes
from omnirl_core.data import Record
from omnirl_core.rewards.answers.answers import normal_text
from omnirl_core.rewards.answers.choices import Options, reference_choice, reference_yes_no
from omnirl_core.rewards.answers.numbers import read_quantity
from omnirl_core.rewards.code.test_cases import read_exercise
from omnirl_core.rewards.documents import unit_tests
from omnirl_core.rewards.tables import read_tables
from omnirl_core.text import reference_texts, strip_tags

SHORT = 6
"""Most words of a short answer."""
LONG = 60
"""Words from which a text is a page or an essay."""

_FINAL = re.compile(r"####\s*\S+\s*$")
_ASSERTS = re.compile(r"^\s*(?:def check\(|assert\b)", re.MULTILINE)
_MATH = re.compile(r"\\[A-Za-z]{2,}|\$[^$]+\$|\w\s*(?:\^|\*\*)\s*[\w({-]|[\w)]\s*=\s*[\w(-]")
_PATTERN = re.compile(r"\\[dwsb](?![A-Za-z])|\[[^\]]*\w-\w[^\]]*\]|\(\?:|\w\{\d+(?:,\d*)?\}|\.\*|^\^.*\$$")
_LETTERED = re.compile(r"(?:^|[\s(])([A-D])[).:]\s*\S")
_BARE_LETTER = re.compile(r"\(?[A-J]\)?\.?")
_SPAN = re.compile(
    r"\W*(?:\d+:)*\d+(?:\.\d+)?\s*s?(?:ec\w*)?\s*(?:-|–|to|until|,)\s*(?:\d+:)*\d+(?:\.\d+)?\s*s?(?:ec\w*)?\W*"
)
_IDEOGRAPHS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_NOT_VALUES = {"answer_start", "aliases", "normalized_aliases", "answer_type", "answer_id", "answer_confidence"}


@dataclass(frozen=True)
class Reference:
    """A sample's reference: its kind, and the texts that it is made of."""

    kind: str
    record: Record
    texts: tuple[str, ...] = ()

    @cached_property
    def problem(self) -> str:
        return self.record.problem

    @property
    def n_words(self) -> float:
        """Words of a text in the mean; of Chinese and Japanese about half of the signs."""
        return sum(map(count_words, self.texts)) / max(1, len(self.texts))


def count_words(text: str) -> int:
    """Words of a text, an ideograph or kana counted as half of one.

    >>> count_words("a red car"), count_words("红色的车在路边")
    (3, 4)
    """
    signs = len(_IDEOGRAPHS.findall(text))
    return len(_IDEOGRAPHS.sub(" ", text).split()) + (signs + 1) // 2


def read_reference(record: Record) -> Reference:
    """The kind of a record's solution, one of KINDS.

    >>> [read_reference(Record("?", solution)).kind for solution in (True, 3, [1, 2, 3, 4], "a red car", None)]
    ['yes_no', 'number', 'box', 'short', 'nothing']
    """
    solution = _parsed(record.solution)
    kind, texts = _kind(solution, record)
    return Reference(kind, record, tuple(texts))


def options_of(record: Record) -> tuple[str, Options]:
    """The name and value of the sample's column of options; ("", None) where it has none."""
    for name in ("options", "choices", "candidates"):
        value = record.extra.get(name)
        if isinstance(value, list | dict | str) and value:
            return name, value
    return "", None


def _parsed(solution: object) -> object:
    """A text that is a list or an object in JSON as its value; other texts without tags."""
    if not isinstance(solution, str):
        return solution
    text = strip_tags(solution)
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


def _kind(solution: Any, record: Record) -> tuple[str, Sequence[str]]:
    if solution is None or solution == "":
        return "nothing", ()
    if isinstance(solution, bool):
        return "yes_no", ()
    if isinstance(solution, Mapping):
        return _object_kind(solution, record)
    if isinstance(solution, list | tuple):
        return _list_kind(solution, record)
    if isinstance(solution, int | float):
        options = options_of(record)[1]
        is_index = isinstance(solution, int) and options is not None and 0 <= solution <= len(options)
        chosen = is_index and str(solution) not in [str(one) for one in options or ()]
        return ("index" if chosen else "number"), (str(solution),)
    return _text_kind(str(solution), record), (str(solution),)


def _object_kind(solution: Mapping[str, Any], record: Record) -> tuple[str, Sequence[str]]:
    if read_exercise(solution) is not None:
        return "code", ()
    if "counts" in solution and "size" in solution:
        return "mask", ()
    if isinstance(solution.get("tests"), list) and unit_tests("", solution) is not None:
        return "tests", ()
    keys = set(solution) - _NOT_VALUES
    if len(keys) == 1 and keys <= {"answer", "text", "value"}:
        return _kind(solution[keys.pop()], record)
    if _is_place(solution):
        boxes = parse_labelled_boxes(dict(solution))
        return ("box" if len(boxes) == 1 else "boxes" if boxes else "point"), ()
    return "json", ()


def _is_place(value: object) -> bool:
    """An object that holds a box or a point, and what it is of."""
    if not isinstance(value, Mapping):
        return False
    names = {str(name).lower() for name in value}
    named = any("bbox" in name or "box" in name or "point" in name for name in names) or names >= {"x", "y"}
    return named and len(value) <= 4


def _list_kind(solution: Sequence[Any], record: Record) -> tuple[str, Sequence[str]]:
    if not solution:
        return "empty", ()
    if unit_tests("", solution) is not None:
        return "tests", ()
    if all(isinstance(one, bool | int | float) for one in solution):
        return {1: "number", 2: "pair", 4: "box"}.get(len(solution), "numbers"), tuple(map(str, solution))
    if all(_is_place(one) for one in solution):
        return ("boxes" if parse_labelled_boxes(list(solution)) else "points"), ()
    if all(isinstance(one, list | tuple) for one in solution):
        return _nested_kind(solution)
    if all(isinstance(one, Mapping) for one in solution):
        texts = [text for one in solution for text in reference_texts(one) or ()]
        return ("people", texts) if all("answer" in one for one in solution) else ("json", ())
    texts = [str(one) for one in solution if isinstance(one, str | int | float) and str(one).strip()]
    return _texts_kind(texts, record) if texts else ("unknown", ())


def _nested_kind(solution: Sequence[Sequence[Any]]) -> tuple[str, Sequence[str]]:
    sizes = {len(one) for one in solution}
    if all(isinstance(x, int | float) for one in solution for x in one):
        if sizes == {4}:
            return ("box" if len(solution) == 1 else "boxes"), ()
        if sizes == {2}:
            return ("point" if len(solution) == 1 else "points"), ()
        return ("mask" if all(size >= 6 and size % 2 == 0 for size in sizes) else "numbers"), ()
    texts = [str(x) for one in solution for x in one if isinstance(x, str)]
    return ("list", texts) if texts else ("unknown", ())


def _texts_kind(texts: Sequence[str], record: Record) -> tuple[str, Sequence[str]]:
    """Several texts: people's answers, sentences of one meaning, spellings of one answer, or a list of items."""
    if len(texts) == 1:
        return _text_kind(texts[0], record), texts
    forms = [normal_text(text) for text in texts]
    words = sum(map(count_words, texts)) / len(texts)
    if words > SHORT:
        return "sentences", texts
    if len(texts) >= 5 and len(set(forms)) < len(forms):
        return "people", texts
    return ("spellings" if _one_answer(forms) else "list"), texts


def _one_answer(forms: Sequence[str]) -> bool:
    """Whether short texts say the same: words of one are all in the other, or both are one number."""
    first, *others = forms
    words = [set(re.findall(r"\w+", form)) - {"a", "an", "the"} or {form} for form in forms]
    if any(one <= words[0] or words[0] <= one for one in words[1:]):
        return True
    quantity = read_quantity(first)
    return quantity is not None and any(
        other is not None and other.value == quantity.value for other in map(read_quantity, others)
    )


def _text_kind(text: str, record: Record) -> str:
    """The kind of one text."""
    options = options_of(record)[1]
    if _FINAL.search(text):
        return "final"
    if _ASSERTS.search(text):
        return "asserts"
    if options is not None and reference_choice(text, options) is not None:
        return "option"
    lettered = len(set(_LETTERED.findall(record.problem))) >= 2
    if _BARE_LETTER.fullmatch(text) and (lettered or options is not None):
        return "option"
    if reference_yes_no(text) is not None and count_words(text) == 1:
        return "yes_no"
    if _SPAN.fullmatch(text) and not re.fullmatch(r"[-+]?[\d.,]+", text):
        return "span"
    if read_quantity(text) is not None:
        return "number"
    if any(len(table) > 1 for table in read_tables(text)) and (
        "<t" in text.lower() or re.search(r"\|\s*:?-{2,}", text)
    ):
        return "table"
    if _PATTERN.search(text) and count_words(text) <= SHORT and "\\frac" not in text and "$" not in text[:-1]:
        return "pattern"
    if "\\boxed" in text or (_MATH.search(text) and count_words(text) <= 2 * SHORT):
        return "math"
    if _BARE_LETTER.fullmatch(text):
        return "letter"
    n_words = count_words(text)
    return "short" if n_words <= SHORT else "long" if n_words >= LONG else "sentence"
