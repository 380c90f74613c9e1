"""What is counted in an answer: numbers in words ("I see three dogs"), and the things that a number counts."""

import re

from omnirl_core.rewards.answers.number_words import (
    CHINESE_PATTERN,
    ENGLISH_PATTERN,
    OF_OTHERS,
    chinese_value,
    english_value,
)
from omnirl_core.rewards.overlap.wordnet import wordnet
from omnirl_core.rewards.overlap.words import STEMS

MEASURES = "个只条头匹名位本辆台张把朵棵座件块杯瓶次岁人年天枚支双对层"
_NOT_ONE = (
    r"(?<!no )(?<!the )(?<!this )(?<!that )(?<!any )(?<!every )(?<!each )(?<!some)(?<!no-)(?<!any)(?<!every)"
)
_IN_WORDS = re.compile(
    rf"{_NOT_ONE}\b(?P<english>{ENGLISH_PATTERN})\b(?!-)"
    rf"|\b(?P<other>{'|'.join(sorted(OF_OTHERS, key=len, reverse=True))})\b"
    rf"|(?P<chinese>{CHINESE_PATTERN})(?=[{MEASURES}])",
    re.IGNORECASE,
)
_NOTHING = re.compile(
    r"\s*(?:none|no \w+)\W*$|\bthere (?:is|are|was|were)(?: no\b|n['’]t any\b| not any\b)|\bnone\b of|没有",
    re.IGNORECASE,
)
_AFTER = re.compile(r"(?:[ \t]*[^\W\d_]+){1,5}")
_SAY_LITTLE = (
    "a an the of in on at to and or is are was were be there here them it its this that these those all total "
    "altogether object objects item items thing things visible shown image picture photo scene o clock more less "
    "than we i you can see as for with"
)
_LITTLE = frozenset(_SAY_LITTLE.split())
_PEOPLE = {"people", "person", "persons"}
_BEFORE_PLACE = {"in", "on", "of", "at", "with", "and", "from", "near"}
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


def number_in_words(text: str, pick: str) -> int | None:
    """The last number word of a text, the first, or the only one; None where there is none.

    "There is no cat" counts nothing: 0. "one" counts where it is no pronoun.

    >>> [number_in_words(text, "last") for text in ("I see three dogs", "thirty-one", "There is no cat", "a cat")]
    [3, 31, 0, None]
    """
    values = [value for match in _IN_WORDS.finditer(text) if (value := _value(match)) is not None]
    if not values:
        return 0 if _NOTHING.search(text) else None
    if pick == "only" and len(set(values)) > 1:
        return None
    return values[0] if pick == "first" else values[-1]


def _value(match: re.Match[str]) -> int | None:
    if match["english"]:
        return english_value(match["english"])
    return OF_OTHERS[match["other"].lower()] if match["other"] else chinese_value(match["chinese"])


def words_after(text: str, end: int) -> tuple[str, ...]:
    """The next few words after a number, up to the end of its clause.

    >>> words_after("2 brown dogs, one cat", 1)
    ('brown', 'dogs')
    """
    match = _AFTER.match(text, end)
    return tuple(match.group().lower().split()) if match else ()


def same_things(found: tuple[str, ...], gold: tuple[str, ...]) -> bool:
    """Whether what an answer counts can be what the reference counts; words missing on one side are no fault.

    >>> same_things(("dogs",), ("dog",)), same_things(("cats",), ("dogs",)), same_things((), ("dogs",))
    (True, False, True)
    """
    named = [word for word in found if word not in _LITTLE]
    wanted = _noun(gold)
    if not named or wanted is None:
        return True
    if _CJK.search(wanted):
        return wanted[-1] in "".join(named) or all(char in MEASURES for char in "".join(named))
    near = _PEOPLE if wanted in _PEOPLE else wordnet()[wanted]
    return any(STEMS[word] == STEMS[wanted] or word in near for word in named)


def _noun(words: tuple[str, ...]) -> str | None:
    """The head of a short noun phrase: its last word before a preposition."""
    head: str | None = None
    for word in words:
        if word in _BEFORE_PLACE:
            break
        head = word if word not in _LITTLE else head
    return head
