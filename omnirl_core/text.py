"""Every picking of a string: the text of a completion, its tags, the answer, its tokens.

One rule for all rewards: *the* answer is the body of the last `<answer>` that stands after `</think>`.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import isfinite
from typing import Any, NamedTuple

from omnirl_core.types import Completion, Message

TAG = re.compile(r"</?(?:think|answer)>")
ORDER = ["<think>", "</think>", "<answer>", "</answer>"]
END_MARKERS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>", "<eos>", "</s>")


class Tag(NamedTuple):
    """One of the four tags and where it stands."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Response:
    """A completion read by its tags; `reason` says why it is not well formed ("" when it is)."""

    think: str | None
    answer: str | None
    well_formed: bool
    reason: str


def completion_text(completion: Completion | None) -> str:
    """Text of a completion: the string itself, or the assistant's messages joined by newlines.

    >>> completion_text([{"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}])
    'Hello'
    """
    if completion is None or isinstance(completion, str):
        return completion or ""
    turns = (message for message in completion if message.get("role", "assistant") == "assistant")
    return "\n".join(content_text(message) for message in turns)


def content_text(message: Message, image: str = "") -> str:
    """Text of a chat turn, with `image` in the place of an image."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    texts = (b if isinstance(b, str) else image if b.get("type") == "image" else b.get("text") for b in content)
    return "".join(text or "" for text in texts)


def find_tags(text: str) -> list[Tag]:
    """The four tags of the format, in the order of the text."""
    return [Tag(match.group(), match.start(), match.end()) for match in TAG.finditer(text)]


def parse_response(text: str) -> Response:
    """Read `<think>...</think><answer>...</answer>` in one pass over the tags.

    >>> parse_response("<think>2 + 2</think> <answer>4</answer>")
    Response(think='2 + 2', answer='4', well_formed=True, reason='')
    >>> parse_response("<think>2 + 2</think> so 4").reason
    'no <answer>'
    """
    text = without_end_marker(text)
    tags = find_tags(text)
    reason = _fault(text, tags)
    return Response(_think_body(text, tags), _answer_body(text, tags), not reason, reason)


def answer_text(completion: Completion | None) -> str | None:
    """The answer: body of the last closed `<answer>` after the last `</think>`; None if there is none.

    >>> answer_text("<think>is it <answer>3</answer>?</think><answer>4</answer>")
    '4'
    """
    text = without_end_marker(completion_text(completion))
    return _answer_body(text, find_tags(text))


def strip_tags(text: str) -> str:
    """A reference text without its tags: VLM-R1 data keeps `<answer> ... </answer>` in the solution.

    >>> strip_tags("<think>easy</think><answer> Paris </answer>"), strip_tags("Paris")
    ('Paris', 'Paris')
    """
    if "<" not in text:
        return text.strip()
    answer = answer_text(text)
    return TAG.sub(" ", text).strip() if answer is None else answer


def reference_texts(solution: object) -> list[str] | None:
    """Reference texts of a solution, tags stripped; None when there is nothing to judge by.

    A number is read as its text, a list as several references, a dict by its `answer`, `text` or `value`.

    >>> reference_texts("<answer>a cat</answer>"), reference_texts([4, "four"]), reference_texts("")
    (['a cat'], ['4', 'four'], None)
    """
    if isinstance(solution, str):
        text = strip_tags(solution)
        return [text] if text else None
    if isinstance(solution, dict):
        solution = next((solution[key] for key in ("answer", "text", "value") if key in solution), None)
    candidates = solution if isinstance(solution, list | tuple) else [solution]
    texts = [text for text in map(_reference_text, candidates) if text]
    return texts or None


def _reference_text(reference: Any) -> str:
    if isinstance(reference, str):
        return strip_tags(reference)
    if isinstance(reference, float) and reference.is_integer():
        return str(int(reference))  # JSON writers turn 3 into 3.0
    readable = isinstance(reference, int) or (isinstance(reference, float) and isfinite(reference))
    return str(reference) if readable else ""


def _fault(text: str, tags: list[Tag]) -> str:
    """First thing wrong with the format, "" when nothing is."""
    names = [tag.name for tag in tags]
    for name in ORDER:
        if (count := names.count(name)) != 1:
            return f"no {name}" if count == 0 else f"{count} x {name}"
    if names != ORDER:
        return "tags out of order: " + " ".join(names)
    think, end_think, answer, end_answer = tags
    bodies = {"<think>": text[think.end : end_think.start], "<answer>": text[answer.end : end_answer.start]}
    outside = {
        "before <think>": text[: think.start],
        "between </think> and <answer>": text[end_think.end : answer.start],
        "after </answer>": text[end_answer.end :],
    }
    for place, between in outside.items():
        if between.strip():
            return f"text {place}"
    return next((f"empty {name}" for name, body in bodies.items() if not body.strip()), "")


def _think_body(text: str, tags: list[Tag]) -> str | None:
    """From the first `<think>` (or the start: a chat template may have opened it) to the last `</think>`."""
    closed = max((tag.start for tag in tags if tag.name == "</think>"), default=None)
    if closed is None:
        return None
    opened = min((tag.end for tag in tags if tag.name == "<think>" and tag.end <= closed), default=0)
    return text[opened:closed].strip()


def _answer_body(text: str, tags: list[Tag]) -> str | None:
    span = answer_span(text, tags)
    return None if span is None else text[slice(*span)].strip()


def answer_span(text: str, tags: list[Tag] | None = None) -> tuple[int, int] | None:
    """Where the answer's body lies in a text, white space around it included; None if there is no answer.

    >>> answer_span("<think>2 + 2</think><answer> 4</answer>")
    (28, 30)
    """
    tags = find_tags(text) if tags is None else tags
    thought = max((i for i, tag in enumerate(tags) if tag.name == "</think>"), default=-1)
    answer: tuple[int, int] | None = None
    opened: int | None = None
    for tag in tags[thought + 1 :]:
        if tag.name == "<think>":
            break  # a thought that never ends: nothing in it is an answer
        if tag.name == "<answer>":
            opened = tag.end
        elif opened is not None:
            answer, opened = (opened, tag.start), None
    return answer


def without_end_marker(text: str) -> str:
    """Text without outer white space and without the end-of-turn token that some decoders keep."""
    text = text.strip()
    for marker in END_MARKERS:
        if text.endswith(marker):
            return text.removesuffix(marker).rstrip()
    return text


# --- tokens ---

SOLO = (
    "\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Ideographs, kana and bopomofo: written without spaces, one token each."""

UNSPACED = ("\u0e00-\u0eff", "\u1000-\u109f", "\u1780-\u17ff")
"""Thai and Lao, Burmese, Khmer: written without spaces, one token per letter with its marks."""

ASCII_WORDS = "".join(chr(code).lower() if chr(code).isalnum() else " " for code in range(128))
"""Translation table: letters to lower case, digits as they are, the rest to spaces."""
SIGN = rf"(?<![)\]])(?<![^\W{SOLO}])[-+\u2212]"  # after a letter or a number it is a dash
NUMBER = rf"(?:{SIGN})?(?:\d+(?:[.,:/]\d+)*|(?<![\w.])\.\d+)(?:e[-+]?\d+)?(?:\s?%)?"
_NUMBERED_ASCII = re.compile(rf"{NUMBER}|[a-z0-9]+")
THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def tokens(text: str, numbers: bool = False) -> list[str]:
    """Lower-case tokens: words, one per ideograph or kana, one per emoji; on ASCII text those of rouge_score.

    Combining marks stay with their letter. With `numbers`, a number is one token in a normal form: sign,
    decimals, thousands separators and percent included.

    >>> tokens("The cat's 3.14"), tokens("我爱 NLP"), tokens("ผมรัก")
    (['the', 'cat', 's', '3', '14'], ['我', '爱', 'nlp'], ['ผ', 'ม', 'รั', 'ก'])
    >>> tokens("x = -1,234.50 or 50 %", numbers=True)
    ['x', '-1234.5', 'or', '50%']
    """
    if text.isascii():
        # translate and split: three times as fast as re.findall
        words = _NUMBERED_ASCII.findall(text.lower()) if numbers else text.translate(ASCII_WORDS).split()
        return _normal_numbers(words) if numbers else words
    text = unicodedata.normalize("NFKC", text).casefold()
    found = _word_pattern(numbers).findall(text)
    return _normal_numbers(found) if numbers else found


@cache
def _word_pattern(numbers: bool) -> re.Pattern[str]:
    """Pattern of one token of any script; `re` knows no \\p{M}, so the classes come from unicodedata."""
    marks = _ranges(lambda char: unicodedata.category(char)[0] == "M")
    symbols = _ranges(lambda char: unicodedata.category(char) == "So")
    unspaced = "".join(UNSPACED)
    letter = rf"[^\W_{SOLO}{unspaced}]"
    word = rf"{letter}+(?:[{marks}]+{letter}*)*"
    alone = rf"(?![_])(?=\w)[{SOLO}{unspaced}][{marks}]*"
    number = f"{NUMBER}|" if numbers else ""
    return re.compile(rf"{number}{word}|{alone}|[{symbols}]")


def _ranges(belongs: Callable[[str], bool]) -> str:
    """Characters above ASCII that belong, as the inside of a character class; 20 ms, once."""
    inside = [code for code in range(0x80, 0x20000) if belongs(chr(code))] + [0x1FFFFF]
    parts, first = [], inside[0]
    for code, following in pairwise(inside):
        if following != code + 1:
            parts.append(f"{chr(first)}-{chr(code)}")
            first = following
    return "".join(parts)


def _normal_numbers(found: list[str]) -> list[str]:
    return [_normal_number(token) if token[-1:] in "0123456789%" else token for token in found]


def _normal_number(token: str) -> str:
    """One spelling for one number: 1,234.50 -> 1234.5, +5 -> 5, .5 -> 0.5, 50 % -> 50%."""
    sign = "-" if token[0] in "-\u2212" else ""
    percent = "%" if token[-1] == "%" else ""
    body = token.lstrip("+-\u2212").rstrip("% \t\n")
    if THOUSANDS.fullmatch(body):
        body = body.replace(",", "")
    if body.count(".") == 1 and body.replace(".", "").isdigit():
        whole, decimals = body.split(".")
        body = (whole or "0") + ("." + decimals.rstrip("0")).rstrip(".")
    return sign + body + percent
