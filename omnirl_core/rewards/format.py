"""How a completion is written: its tags, its length, its repetitions. None of it says whether it is right."""

import math
import re
from collections.abc import Sequence
from itertools import islice
from typing import Literal

from omnirl_core.rewards.overlap.content import FUNCTION_WORDS, asks, languages_of
from omnirl_core.rewards.reward import on_answer
from omnirl_core.text import ORDER, TAG, Tag, find_tags, parse_response, tokens, without_end_marker
from omnirl_core.types import check_choice

TOKENS_PER_WORD = 4
"""More model tokens than that per word are punctuation or noise, and earn nothing."""


def think_format(completion: str, *, partial: bool = False, think_opened: bool = False) -> float:
    """1.0 for one thought and one answer, each in its tags, not empty, and nothing else; otherwise 0.0.

    `partial` gives 0.25 for a thought, 0.25 for an answer, and 0.25 more for the two in order. `think_opened`
    is for chat templates that have written `<think>` already.

    >>> think_format("<think>2 + 2</think><answer>4</answer>"), think_format("4")
    (1.0, 0.0)
    >>> think_format("<think>2 + 2</think> so it is <answer>4</answer>", partial=True)
    0.75
    """
    text = "<think>" + completion if think_opened else completion
    if parse_response(text).well_formed:
        return 1.0
    return _partial(without_end_marker(text)) if partial else 0.0


def _partial(text: str) -> float:
    tags = find_tags(text)
    sections = _has_section(text, tags, ORDER[:2]) + _has_section(text, tags, ORDER[2:])
    in_order = sections == 2 and [tag.name for tag in tags] == ORDER
    return 0.25 * (sections + in_order)


def _has_section(text: str, tags: list[Tag], names: Sequence[str]) -> bool:
    """Is there one opening tag, then one closing tag, and something between them?"""
    own = [tag for tag in tags if tag.name in names]
    return [tag.name for tag in own] == list(names) and bool(text[own[0].end : own[1].start].strip())


def length_band(
    completion: str,
    *,
    low: int = 20,
    high: int = 300,
    edge: int | None = None,
    unit: Literal["tokens", "words"] = "tokens",
    completion_ids: Sequence[int] | None = None,
    preset: Literal["seed"] | None = None,
) -> float:
    """1.0 from `low` to `high` units of length, falling linearly to 0.0 outside; in [0, 1].

    The fall is over `edge` units, by default from `low` down to nothing and from `high` up to twice that.
    `tokens` are the model's where the batch gives `completion_ids`, otherwise words. Tags are no words, and
    punctuation earns nothing. As a reward, give it `gated_by`, so that length cannot pay for a wrong answer.
    `preset="seed"` is the original OmniRL's curve over characters, which reaches 1.996.

    >>> [length_band("word " * n, low=10, high=20) for n in (0, 5, 10, 20, 30, 40)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    >>> length_band("," * 100, low=10, high=200)
    0.0
    """
    check_choice("unit", unit, ("tokens", "words"))
    check_choice("preset", preset, (None, "seed"))
    if preset == "seed":
        return seed_length(completion)
    if not 0 < low <= high or (edge is not None and edge < 1):
        raise ValueError(f"low: {low}, high: {high}, edge: {edge} must be 0 < low <= high, and edge 1 or more")
    words = len(tokens(TAG.sub(" ", completion)))
    counted = spent = words
    if unit == "tokens" and completion_ids is not None:
        spent = len(completion_ids)
        counted = min(spent, TOKENS_PER_WORD * words)
    rise = 1 - (low - counted) / (edge or low)
    fall = 1 - (spent - high) / (edge or high)
    return max(0.0, min(1.0, rise, fall))


def seed_length(completion: str, *, limit: int = 500, gamma: float = 0.9) -> float:
    """The original OmniRL's length reward, in [0, 2): a peak at 499 characters, more for more punctuation."""
    size = len(completion)
    density = sum(completion.count(mark) for mark in ",.;!") / (size + 1e-6)
    if size <= limit:
        base = size * (1 + math.sin(math.pi * size / (2 * limit)))
    else:
        base = 2 * limit + math.log(size - limit + 1)
    return base * gamma ** (size // limit) * (0.5 + 0.5 * density) / 500


def repetition(completion: str, *, order: int = 4) -> float:
    """Share of n-grams of `order` words that occurred before in the text, in [0, 1]: give it a negative weight.

    A text of punctuation alone is read character by character.

    >>> repetition("a b c d e f g"), repetition("so it goes and " * 10)
    (0.0, 0.891...)
    """
    if order < 1:
        raise ValueError(f"order: {order} must be 1 or more")
    text = TAG.sub(" ", completion)
    units = tokens(text) or list("".join(text.split()))
    grams = list(zip(*(islice(units, k, None) for k in range(order)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


# --- language, length, JSON and Markdown: give each `gated_by` a reward of the answer ---

_SENTENCE = re.compile(r"[^.!?。！？؟\n]+")
_ELEMENTS = {
    "heading": r"^#{1,6} +\S",
    "list": r"^ *+(?!(?:[-*] *+){3,}$)(?:[-*+]|\d{1,3}[.)]) +\S",  # * * * is a rule
    "table": r"^ *+\|[^\n]*\|[ \t]*+\n *+\|(?=[ :|]*+-)[ :|-]*+$",
    "code": r"^```",
    "bold": r"\*\*[^*\s][^*\n]*\*\*",
}
Element = Literal["heading", "list", "table", "code", "bold"]


@asks
def language_consistency(completion: str, *, target: str | None = None, question: str) -> float | None:
    """Share of the words of thought and answer that are in the question's language, or in `target`, in [0, 1].

    Sentences are told apart by function words and script, in the languages of `overlap`; one that tells nothing
    counts as right. None where the question tells none (DeepSeek-R1's language consistency).

    >>> question = "What is the man holding?"
    >>> [language_consistency(text, problem=question) for text in ("The man is in the rain.", "雨中的人")]
    [1.0, 0.0]
    """
    if target is not None:
        check_choice("target", target, tuple(FUNCTION_WORDS))
    wanted = (target,) if target is not None else languages_of(question)
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
    from omnirl_core.rewards.answers.structured import read_json  # brings all scorers of answers

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
