"""Rewards for documents, text in images and charts: ANLS, error rates, ChartQA's accuracy, unit tests of a page."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

from omnirl_core.rewards.answers.answers import MAX_CELLS, best_of_references, edit_similarity, exact, number
from omnirl_core.rewards.overlap.content import asks
from omnirl_core.rewards.overlap.contradiction import contradictions
from omnirl_core.rewards.reward import on_answer
from omnirl_core.rewards.tables import read_tables

MOST_CHARACTERS = 20_000  # of a page that is tested


@on_answer
@asks
@best_of_references
def anls(prediction: str, solution: str, *, contradiction: float = 1.0, question: str) -> float | None:
    """ANLS as in the DocVQA papers, in [0, 1]: 1 - edit distance / longer length, and 0.0 from a distance of half on.

    The best reference counts. Case and spacing aside. It is `edit_similarity` with its `floor` at one half. Where the
    question is known, each kind of fact that the answer has otherwise (a number, a unit, a name) multiplies the score
    by `contradiction`: 2000 for 2009 is 0.75 by letters. 1 does not look, as in the papers.

    >>> anls("Main Street", ["main streat", "5th Avenue"]), anls("Maple", "Main Street")
    (0.9090909090909091, 0.0)
    """
    score = edit_similarity(prediction, solution, floor=0.5, problem=question)
    if not score or not question or contradiction == 1:
        return score
    return score * contradiction ** contradictions(prediction, solution, question)


@on_answer
@best_of_references
def cer(prediction: str, solution: str, *, case_sensitive: bool = True, floor: float = 0.4) -> float | None:
    """1 - character error rate (edits / length of the reference), in [0, 1], and 0.0 up to `floor`.

    Unrelated sentences are 0.2 to 0.3 alike, which `floor` keeps from paying. Spacing aside; texts that are long on
    both sides (from 20,000 characters on) are compared word by word.

    >>> cer("Main Streat", "Main Street"), cer("abcdefgh", "ijklmnop")
    (0.9090909090909091, 0.0)
    """
    said, wanted = _spaced(prediction, case_sensitive), _spaced(solution, case_sensitive)
    by_words = len(said) * len(wanted) > MAX_CELLS
    score = _accuracy(said.split(), wanted.split()) if by_words else _accuracy(said, wanted)
    return score if score > floor or score == 1.0 else 0.0


@on_answer
@best_of_references
def wer(prediction: str, solution: str, *, case_sensitive: bool = True) -> float | None:
    """1 - word error rate (edits of words / words of the reference), in [0, 1]. Words are split at white space.

    >>> wer("a big red dog", "a big dog"), wer("no word of it", "a dog")
    (0.6666666666666667, 0.0)
    """
    return _accuracy(*(_spaced(text, case_sensitive).split() for text in (prediction, solution)))


def _spaced(text: str, case_sensitive: bool) -> str:
    return " ".join((text if case_sensitive else text.casefold()).split())


def _accuracy(said: Sequence[Any], wanted: Sequence[Any]) -> float:
    if len(said) >= 2 * len(wanted):  # as many insertions as the reference is long
        return 0.0
    return max(0.0, 1 - Levenshtein.distance(said, wanted, score_cutoff=len(wanted)) / len(wanted))


@on_answer
def relaxed_accuracy(prediction: str, solution: object, *, relative_tolerance: float = 0.05) -> float | None:
    """ChartQA's relaxed accuracy: 1.0 for a number within 5 % of the reference, or for its very text, else 0.0.

    Whole numbers from 1500 to 2100 without unit or separator are years, which have no tolerance. Numbers are read as by
    `number`, and one that stands alone counts. The best reference counts.

    >>> relaxed_accuracy("10.4", "10"), relaxed_accuracy("2014", "2015"), relaxed_accuracy("Brazil.", "brazil")
    (1.0, 0.0, 1.0)
    """
    score = number(prediction, solution, relative_tolerance=relative_tolerance, pick="only")
    return exact(prediction, solution) if score is None else score


@on_answer
def unit_tests(prediction: str, solution: object) -> float | None:
    """Share of a page's tests that its transcription passes, as in olmOCR-Bench, in [0, 1]; None without tests.

    `solution` is a list of tests, or an object with one under `tests`:

        {type: present, text: ..., max_diffs: 2}      also first_n, last_n (characters), case_sensitive: false
        {type: absent, text: ...}                     a header or page number that is no part of the text
        {type: order, before: ..., after: ...}
        {type: table, cell: ..., up: ..., down: ..., left: ..., right: ..., top_heading: ..., left_heading: ...}
        {type: math, math: \\\\frac{1}{2}}              spacing and \\\\left, \\\\right aside

    Tests of absence count as far as the others pass, so that an empty page earns nothing; alone they judge nothing.

    >>> tests = [{"type": "present", "text": "Annual report"}, {"type": "absent", "text": "Page 3"}]
    >>> unit_tests("# Annual report 2024", tests), unit_tests("", tests), unit_tests("Annual report, Page 3", tests)
    (1.0, 0.0, 0.5)
    """
    tests = solution.get("tests") if isinstance(solution, Mapping) else solution
    if not isinstance(tests, list | tuple) or not all(_is_test(test) for test in tests):
        return None
    page = prediction[:MOST_CHARACTERS]
    wanted = [test for test in tests if test["type"] != "absent"]
    if not wanted:
        return None
    text = _page_text(page)
    passed = sum(_CHECKS[test["type"]](test, text, page) for test in wanted)
    kept = sum(not _is_present(test, text, page) for test in tests if test["type"] == "absent")
    return (passed + kept * passed / len(wanted)) / len(tests)


_WANTED = {"present": ["text"], "absent": ["text"], "order": ["before", "after"], "table": ["cell"], "math": ["math"]}
_SIDES = {
    "up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1),
    "top_heading": (None, 0), "left_heading": (0, None),
}  # fmt: skip


def _is_test(test: object) -> bool:
    if not isinstance(test, Mapping) or test.get("type") not in _WANTED:
        return False
    texts = [test.get(name) for name in _WANTED[test["type"]]]
    counts = [test.get(name, 0) for name in ("max_diffs", "first_n", "last_n")]
    return all(isinstance(one, str) and one.strip() for one in texts) and all(isinstance(one, int) for one in counts)


def _page_text(text: str) -> str:
    """Text without marks of Markdown and with plain quotes and single spaces."""
    text = re.sub(r"[*_`#]{1,6}", "", text.translate(str.maketrans("“”‘’", "\"\"''")))
    return " ".join(text.split())


def _where(text: str, page: str, max_diffs: int) -> int | None:
    """Where a text begins in the page, up to `max_diffs` letters aside; None where it is not there."""
    text = _page_text(text)
    exactly = page.find(text)
    if exactly >= 0 or max_diffs < 1:
        return None if exactly < 0 else exactly
    least = 100 * (1 - max_diffs / max(1, len(text)))
    found = fuzz.partial_ratio_alignment(text, page, score_cutoff=max(50.0, least)) if len(page) >= len(text) else None
    return None if found is None else found.dest_start


def _is_present(test: Mapping[str, Any], text: str, page: str) -> bool:
    wanted = test["text"]
    if test.get("case_sensitive") is False:
        wanted, text = wanted.casefold(), text.casefold()
    if first := test.get("first_n"):
        text = text[:first]
    if last := test.get("last_n"):
        text = text[-last:]
    return _where(wanted, text, test.get("max_diffs", 0)) is not None


def _is_in_order(test: Mapping[str, Any], text: str, page: str) -> bool:
    before, after = (_where(test[name], text, test.get("max_diffs", 0)) for name in ("before", "after"))
    return before is not None and after is not None and before < after


def _has_cell(test: Mapping[str, Any], text: str, page: str) -> bool:
    """Whether a cell with that text has the neighbours that the test names."""
    sides = {name: _page_text(str(test[name])) for name in _SIDES if test.get(name)}
    wanted, max_diffs = _page_text(test["cell"]), test.get("max_diffs", 0)
    for table in read_tables(page):
        rows = [[_page_text(cell.text) for cell in row] for row in table]
        for y, row in enumerate(rows):
            for x, cell in enumerate(row):
                if _alike(cell, wanted, max_diffs) and all(
                    _alike(_beside(rows, y, x, *_SIDES[name]), side, max_diffs) for name, side in sides.items()
                ):
                    return True
    return False


def _beside(rows: list[list[str]], y: int, x: int, down: int | None, right: int | None) -> str:
    """The text of the cell beside; of the first row or column where a step is None."""
    y, x = 0 if down is None else y + down, 0 if right is None else x + right
    return rows[y][x] if 0 <= y < len(rows) and 0 <= x < len(rows[y]) else ""


def _alike(said: str, wanted: str, max_diffs: int) -> bool:
    return said == wanted or (
        max_diffs > 0 and Levenshtein.distance(said, wanted, score_cutoff=max_diffs) <= max_diffs
    )


def _formula(text: str) -> str:
    text = re.sub(r"\\(?:left|right|displaystyle|[,;:! ])(?![A-Za-z])", "", text)
    return "".join(text.split()).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


_CHECKS: dict[str, Callable[[Mapping[str, Any], str, str], bool]] = {
    "present": _is_present,
    "order": _is_in_order,
    "table": _has_cell,
    "math": lambda test, text, page: _formula(test["math"]) in _formula(page),
}
