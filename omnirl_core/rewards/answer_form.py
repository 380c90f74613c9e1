"""Rewards for the form of what is said: its language, its length, JSON, Markdown. None of it says whether it is right.

Give each `gated_by` a reward of the answer, so that form cannot pay for a wrong one.
"""

import re
from collections.abc import Sequence
from typing import Literal

from omnirl_core.rewards.answers.structured import read_json
from omnirl_core.rewards.overlap.content import FUNCTION_WORDS, languages_of, question_of
from omnirl_core.rewards.reward import on_answer
from omnirl_core.text import TAG, tokens
from omnirl_core.type_checks import check_choice

_SENTENCE = re.compile(r"[^.!?。！？؟\n]+")
_ELEMENTS = {
    "heading": r"^#{1,6} +\S",
    "list": r"^ *(?:[-*+]|\d{1,3}[.)]) +\S",
    "table": r"^ *+\|[^\n]*\|[ \t]*+\n *+\|(?=[ :|]*+-)[ :|-]*+$",
    "code": r"^```",
    "bold": r"\*\*[^*\s][^*\n]*\*\*",
}
Element = Literal["heading", "list", "table", "code", "bold"]


def language_consistency(
    completion: str, *, target: str | None = None, prompt: object = None, problem: object = None
) -> float | None:
    """Share of the words of thought and answer that are in the question's language, or in `target`, in [0, 1].

    Sentences are told apart by function words and script, in the languages of `overlap`; one that tells nothing
    counts as right. None where the question tells none (DeepSeek-R1's language consistency).

    >>> question = "What is the man holding?"
    >>> [language_consistency(text, problem=question) for text in ("The man is in the rain.", "雨中的人")]
    [1.0, 0.0]
    """
    if target is not None:
        check_choice("target", target, tuple(FUNCTION_WORDS))
    wanted = (target,) if target is not None else languages_of(question_of(prompt, problem))
    if not wanted:
        return None
    right = total = 0
    for match in _SENTENCE.finditer(TAG.sub("\n", completion)[:20_000]):
        size, found = len(tokens(match.group())), languages_of(match.group())
        total += size
        right += size * (not found or any(language in wanted for language in found))
    return right / total if total else 0.0


def overlong(
    completion: str, *, most_tokens: int = 1024, buffer: int = 256, completion_ids: Sequence[int] | None = None
) -> float:
    """DAPO's soft penalty for length in [0, 1], for a negative weight.

    TRL's `get_soft_overlong_punishment` without its sign: 0.0 up to `most_tokens` - `buffer` tokens, 1.0 beyond
    `most_tokens`, between them a line. Words are counted where a call has no
    `completion_ids`. Source: arXiv 2503.14476, equation 13.

    >>> [overlong("", most_tokens=100, buffer=20, completion_ids=[1] * n) for n in (80, 90, 101)]
    [0.0, 0.5, 1.0]
    """
    if not 0 <= buffer <= most_tokens:
        raise ValueError(f"buffer: {buffer} must be from 0 to most_tokens ({most_tokens})")
    size = len(tokens(completion)) if completion_ids is None else len(completion_ids)
    if size > most_tokens:
        return 1.0
    return max(0, size - most_tokens + buffer) / buffer if buffer else 0.0


@on_answer
def json_format(answer: str, *, keys: list[str] | None = None) -> float:
    """1.0 where the answer is JSON and nothing else (a ```json block may hold it), with `keys` an object with these.

    >>> json_format('{"total": 3}'), json_format('{"total": 3}', keys=["total", "date"]), json_format("total: 3")
    (1.0, 0.0, 0.0)
    """
    try:
        value = read_json(answer)
    except ValueError:
        return 0.0
    return float(keys is None or (isinstance(value, dict) and set(keys) <= set(value)))


@on_answer
def markdown_format(answer: str, *, wants: list[Element] | None = None) -> float:
    """Share of the elements that `wants` names (heading, list, table, code, bold) which the answer has, in [0, 1].

    By default a heading and a list. An answer with an open ``` block is 0.0.

    >>> markdown_format("# Ships\\n\\n- Oslo"), markdown_format("# Ships"), markdown_format("# a\\n- b\\n```")
    (1.0, 0.5, 0.0)
    """
    elements = wants or ["heading", "list"]
    for name in elements:
        check_choice("wants", name, tuple(_ELEMENTS))
    if len(re.findall(r"^```", answer, re.MULTILINE)) % 2:
        return 0.0
    return sum(re.search(_ELEMENTS[name], answer, re.MULTILINE) is not None for name in elements) / len(elements)
