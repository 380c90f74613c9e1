"""Which option of a multiple-choice question an answer names, and whether an answer says yes or no."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from omnirl_core.rewards.answers.numbers import half_width

Options = Sequence[str] | Mapping[str, str] | str | None
"""Texts in order or by letter, or either as JSON."""

LETTERS = "ABCDEFGHIJ"
FEWEST = 5  # letters that are read when nothing says how many options there are: A to E
MAX_CHARACTERS = 4000  # of an answer; its end is kept, where conclusions stand

_NOISE = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)(?![a-zA-Z])|[*$`{}\\]")
_WORD = re.compile(r"[A-Za-z]++|\d++|[^\W_A-Za-z\d]++")
_CUE_WORDS = {
    "the", "my", "final", "correct", "right", "best", "answer", "answers", "option", "options", "choice",
    "choices", "is", "are", "be", "must", "should", "would", "both", "and", "or", "it", "s", "i", "think",
    "believe", "choose", "pick", "select", "go", "with",
}  # fmt: skip
_CJK_CUE = re.compile(r"[我应该的正确最佳答案选择项是为和或与跟及]{1,12}")
_CUES = ("answer", "answers", "option", "options", "choice", "choices")
_CJK_CUES = ("答案", "答案是", "答案为", "选", "选择", "选项", "应选", "选的是")
_MARKED = re.compile(r"(?<![^\s(\[\"'])([A-J])\s?[).:\]、](?![A-Za-z]\.)")
_FIRST = re.compile(r"\W{0,9}([A-Ja-j])\s?[).:\]、,](?!\w\.)|\W{0,9}([B-HJ])\s(?=\S)")


def read_choice(text: str, options: Options = None, reference: Iterable[str] = "") -> frozenset[str]:
    """Letters that an answer names: of the option whose text it is, or else all that it puts forward.

    An answer that puts forward several letters has named them all: "A or B" is a multiple answer. Letters
    go to E, or as far as the options and `reference` do.

    >>> [sorted(read_choice(text)) for text in ("(B)", "b", "B. Paris", "答案是Ｂ", "A or B", "a cat")]
    [['B'], ['B'], ['B'], ['B'], ['A', 'B'], []]
    >>> sorted(read_choice("It is Paris.", options=["Rome", "Paris"]))
    ['B']
    """
    text = _NOISE.sub("", half_width(text[-MAX_CHARACTERS:]))
    texts = option_texts(options)
    named = [letter for letter, option in texts.items() if plain(option) == plain(text)]
    letters = frozenset(named[:1]) or _bare_letters(text) or _letters_put_forward(text) or _mentioned(text, texts)
    n_letters = max([FEWEST, len(texts), *(LETTERS.find(letter) + 1 for letter in reference)])
    return letters & frozenset(LETTERS[:n_letters])


def reference_choice(text: str, options: Options = None) -> frozenset[str] | None:
    """Letters of a reference answer: `B`, `(B)`, `B. Paris`, `A, C`, or an option's text; None for other text.

    >>> sorted(reference_choice("A, C")), sorted(reference_choice("Paris", ["Rome", "Paris"]))
    (['A', 'C'], ['B'])
    >>> reference_choice("Paris") is None
    True
    """
    if len(text) > MAX_CHARACTERS:
        return None
    text = _NOISE.sub("", half_width(text)).strip()
    named = [letter for letter, option in option_texts(options).items() if plain(option) == plain(text)]
    labelled = re.match(r"\(?([A-J])(?:[.:]\s|[)、]|$)", text)
    return frozenset(named[:1]) or _bare_letters(text) or (frozenset(labelled[1]) if labelled else None)


def option_texts(options: Options) -> dict[str, str]:
    """Options by letter, without the letter that many data sets write before them.

    >>> option_texts(["A. Rome", "B. Paris"]), option_texts({"a": "Rome"})
    ({'A': 'Rome', 'B': 'Paris'}, {'A': 'Rome'})
    """
    options = parsed_options(options) if isinstance(options, str) else options
    pairs: Iterable[tuple[str, str]] = zip(LETTERS, options or (), strict=False)
    if isinstance(options, Mapping):
        pairs = options.items()
    named = {str(letter).strip().upper(): half_width(str(text)) for letter, text in pairs}
    return {letter: re.sub(rf"^\s*\(?{letter}[).:、]\s*", "", text) for letter, text in named.items()}


def parsed_options(options: str) -> Sequence[str] | Mapping[str, str]:
    """Options that a column holds as JSON; of other text the lines, where there are several."""
    try:
        found = json.loads(options)
    except (ValueError, RecursionError):
        lines = [line for line in options.splitlines() if line.strip()]
        return lines if len(lines) > 1 else ()
    return found if isinstance(found, list | dict) else ()


def plain(text: str) -> str:
    """Lower-case words of a text, single-spaced."""
    return " ".join(_WORD.findall(text.casefold()))


def _bare_letters(text: str) -> frozenset[str]:
    """Letters of an answer that is nothing but letters and words like "the answer is"."""
    letters: set[str] = set()
    for word in _WORD.findall(text):
        if len(word) == 1 and word.upper() in LETTERS:
            letters.add(word.upper())
        elif len(word) <= len(LETTERS) and set(word) <= set(LETTERS) and list(word) == sorted(set(word)):
            letters.update(word)  # ABD; not BAD
        elif word.lower() not in _CUE_WORDS and not _CJK_CUE.fullmatch(word):
            return frozenset()
    return frozenset(letters)


def _letters_put_forward(text: str) -> frozenset[str]:
    """Letters written as marks ("B. Paris", "(B)") and those after "answer", "option" or 选."""
    letters = set(_MARKED.findall(text))
    if first := _FIRST.match(text):
        letters.add((first[1] or first[2]).upper())
    words = [word for word in _WORD.findall(text) if word not in ("is", "are")]
    for cue, word in pairwise(words):
        cued = cue.lower() in _CUES or cue.endswith(_CJK_CUES)
        if cued and len(word) == 1 and word in LETTERS:
            letters.add(word)
    return frozenset(letters)


def _mentioned(text: str, texts: dict[str, str]) -> frozenset[str]:
    """Letters of the options whose text occurs in the answer, except inside a longer option that occurs."""
    answer = f" {plain(text)} "
    found = {letter: f" {plain(option)} " for letter, option in texts.items() if plain(option)}
    found = {letter: option for letter, option in found.items() if option in answer}
    return frozenset(
        letter
        for letter, option in found.items()
        if not any(option != longer and option in longer for longer in found.values())
    )


# --- yes and no ---

_YES = {
    "yes", "yeah", "yep", "true", "correct", "是", "是的", "对", "对的", "正确", "有", "有的", "可以", "能", "会", "真",
    "ja", "oui", "si", "sí", "sì", "sim", "да", "はい", "네", "예", "نعم", "हाँ", "हां",
}  # fmt: skip
_NO = {
    "no", "nope", "false", "incorrect",
    "否", "不", "不是", "不对", "错", "错误", "不正确", "没有", "没", "无", "不可以", "不能", "不会", "假",
    "nein", "non", "não", "нет", "いいえ", "아니요", "아니오", "لا", "नहीं",
}  # fmt: skip
_ONLY_SAID = {"correct", "incorrect"}
"""Words that answer yes or no, but that are a fact of their own as a reference."""
_SAID_WORD = re.compile(r"[A-Za-zÀ-ÿ]++|\d++|[\u0900-\u097f]++|[^\W_A-Za-zÀ-ÿ\d\u0900-\u097f]++")
"""A word in one script: 答案是yes holds two."""
_CLAUSE = re.compile(r"[.,;:!?/|()\[\]\"'\n、]+|\b(?:or|and|but)\b|或者?|和")
_LEAD_IN = re.compile(
    r"(?:the )?(?:final |correct )?answer (?:is|:)|it is|i say|答案[是为]?|回答[是为]?", re.IGNORECASE
)
_BOTH = re.compile(r"\byes\s*(?:or|/|\|)\s*no\b|\bno\s*(?:or|/|\|)\s*yes\b|是\s*(?:或|/|还是)\s*否")
"""Both answers offered at once."""


def read_yes_no(text: str) -> bool | None:
    """What an answer says, in any of eleven languages; None where it says neither, or both.

    The first word decides, and no later clause may be the bare opposite.

    >>> [read_yes_no(text) for text in ("Yes, there is no cat.", "没有猫。", "yes or no", "maybe")]
    [True, False, None, None]
    """
    said: set[bool] = set()
    plain = half_width(text[:MAX_CHARACTERS]).lower()
    if _BOTH.search(plain):  # an echo of "Answer yes or no." chooses nothing
        return None
    for i, clause in enumerate(_CLAUSE.split(plain)):
        words = _SAID_WORD.findall(_LEAD_IN.sub(" ", clause))
        verdicts = [_verdict(word, begins=i == k == 0) for k, word in enumerate(words)]
        if None not in verdicts:
            said.update(verdict for verdict in verdicts if verdict is not None)
        elif i == 0 and verdicts[0] is not None:
            said.add(verdicts[0])
    return said.pop() if len(said) == 1 else None


_BARE = re.compile(r"\W*(\w[\w\u0900-\u097f]*)\W*")
_OPENED = re.compile(r"\s*([^\W\d_][\w\u0900-\u097f]*)\s*(?:[,，、;:—]|[.!。！]\s*(?=[^\W\d_]))\s*\S")


def reference_yes_no(text: str) -> bool | None:
    """What a reference says: a bare yes or no, or a sentence that opens with one; None for any other text.

    A sign that reads "No parking" or "No. 5" says neither, and neither do "right", "wrong", "Y" and "N".

    >>> [reference_yes_no(text) for text in ("No, there is none.", "no", "No parking", "No. 5", "right")]
    [False, False, None, None, None]
    """
    text = half_width(text[:MAX_CHARACTERS]).lower()
    match = _BARE.fullmatch(text) or _OPENED.match(text)
    word = match[1] if match else ""
    return None if word in _ONLY_SAID or word not in _YES | _NO else word in _YES


def _verdict(word: str, begins: bool) -> bool | None:
    if word in _YES or word in _NO:
        return word in _YES
    if begins and word.startswith(("没有", "不是")):  # Chinese writes no space: 没有猫
        return False
    return True if begins and word.startswith(("是的", "有")) and not word.startswith("有没有") else None
