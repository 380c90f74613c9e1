"""Facts that one word changes: does an answer deny what the reference says, or swap a number, unit, colour or name?

N-grams hardly see one changed word. What is compared here are the kinds of word of which one is right: an answer
contradicts where it has one that the reference has not, in the place of one that it lacks. Word lists of eight
languages; a fact that they do not know costs only its own weight.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from omnirl_core.rewards.answers.numbers import CHINESE, value_of_word
from omnirl_core.rewards.overlap.content import WORD_LISTS, alternatives, languages_of
from omnirl_core.rewards.overlap.words import numbered

_NEGATION = {
    "en": r"\b(?:not|no|never|none|nobody|nothing|neither|nor|without|cannot)\b|n['’]t\b",
    "de": r"\b(?:nicht|kein\w*|nie|niemals|ohne|weder|nichts|niemand)\b",
    "fr": r"\b(?:pas|aucun\w*|jamais|sans|rien|personne ne)\b",
    "es": r"\b(?:no|nunca|ning[uú]n\w*|sin|nada|nadie|tampoco)\b",
    "it": r"\b(?:non|nessun\w*|mai|senza)\b",
    "pt": r"\b(?:não|nenhum\w*|nunca|sem)\b",
    "ru": r"\b(?:не|нет|ни|без|никогда|никак\w*)\b",
    "zh": r"不|没|無|无|非(?!常)|未",
    "ja": r"ない|なかっ|ません|ず(?:に)?(?=[、。]|$)|無し",
    "ko": r"않|없|아니|못|\b안\b",
    "ar": r"\b(?:لا|ليس\w*|لم|لن|غير|بدون)\b",
}
_YES = r"\s*(?:yes|yeah|ja|oui|sí|si|sim|да|是|对|有|はい|네|예|نعم)\b"
_NO = r"\s*(?:no|nein|non|não|нет|不|没有|いいえ|아니요|아니오|لا)\b"
_OPENS = re.compile(rf"(?P<yes>{_YES})|(?P<no>{_NO})", re.IGNORECASE)


def _named(table: str) -> dict[str, str]:
    return {name: kind for kind, names in WORD_LISTS[table].items() for name in names.split()}


def _pattern(names: dict[str, str], before: str = "") -> re.Pattern[str]:
    """Longest name first; names of letters take an ending of up to three, except the shortest."""

    def one(name: str) -> str:
        if not ("a" <= name[0] <= "z" or "\u0400" <= name[0] <= "\u04ff"):
            return re.escape(name)
        return rf"{'' if before else chr(92) + 'b'}{re.escape(name)}{chr(92) + 'w{0,3}' if len(name) > 2 else ''}\b"

    ordered = sorted(names, key=len, reverse=True)
    return re.compile(before + "(?P<name>" + "|".join(f"(?:{one(name)})" for name in ordered) + ")")


_COLOUR_OF, _UNIT_OF = _named("colours"), _named("units")
_COLOUR = _pattern(_COLOUR_OF)
_UNIT = _pattern(_UNIT_OF, r"\d\s?")
_NAME = re.compile(r"(?<=[\w,;'’«(] )[A-ZÀ-ÖØ-ÞА-ЯЁ][\w’'-]*\w")
_COUNTED = re.compile(r"[一二三四五六七八九两十](?=[个只条张辆把位名件匹座人岁年月天点号匹本台つ枚])")

SHORT = 16
"""Characters of a reference that is little more than its number: 25 cm, 12 apples."""


class Facts(NamedTuple):
    """What a text says of each kind."""

    numbers: frozenset[str]
    units: frozenset[str]
    colours: frozenset[str]
    names: frozenset[str]
    denies: bool
    opens: str
    """"yes", "no", or "" for a text that opens with neither."""


@lru_cache(maxsize=64)
def facts_of(text: str, languages: tuple[str, ...]) -> Facts:
    """The facts of a text in these languages.

    >>> facts = facts_of("No, Ann has 3 red cars", ("en",))
    >>> sorted(facts.numbers), sorted(facts.colours), facts.denies, facts.opens
    (['3'], ['red'], True, 'no')
    """
    lower = text.lower()
    opened = _OPENS.match(text)
    names = frozenset() if "de" in languages else frozenset(name.casefold() for name in _NAME.findall(text))
    return Facts(
        _numbers(lower),
        frozenset(_kind(match["name"], _UNIT_OF) for match in _UNIT.finditer(lower)),
        frozenset(_kind(match["name"], _COLOUR_OF) for match in _COLOUR.finditer(lower)),
        names,
        any(re.search(_NEGATION[language], lower) for language in languages if language in _NEGATION),
        "" if opened is None else "yes" if opened["yes"] else "no",
    )


def _numbers(text: str) -> frozenset[str]:
    found = [token for token in numbered(text) if token[-1:] in "0123456789%" or value_of_word(token) is not None]
    values = {token.rstrip("%") if (value := value_of_word(token)) is None else str(value) for token in found}
    counted = {str(CHINESE.get(char, 10)) for char in _COUNTED.findall(text)} - {"1"}
    return frozenset(values | counted) - {"1"}  # "one" is as often a pronoun


def _kind(name: str, kinds: dict[str, str]) -> str:
    return next((kinds[name[:size]] for size in range(len(name), 0, -1) if name[:size] in kinds), name)


def contradictions(prediction: str, reference: str, question: str) -> int:
    """How many kinds of fact the prediction has otherwise than the reference.

    >>> contradictions("The car is blue.", "The car is red.", "What colour is the car?")
    1
    >>> contradictions("It's red", "The car is red.", "Is the car red or blue?")
    0
    """
    languages = languages_of(reference) or languages_of(question) or ("en",)
    said, wanted = facts_of(prediction, languages), facts_of(reference, languages)
    swapped = sum(
        bool(one - other and other - one)
        for one, other in ((said.numbers, wanted.numbers), (said.units, wanted.units), (said.colours, wanted.colours))
    )
    # where a short answer is a number, one without any has another fact in its place
    swapped += bool(wanted.numbers and not said.numbers and len(reference) <= SHORT)
    asked = facts_of(question, languages).names
    swapped += bool(said.names - wanted.names - asked and wanted.names - said.names - asked)
    denied = said.denies is not wanted.denies or (said.opens and wanted.opens and said.opens != wanted.opens)
    return swapped + bool(denied) + _names_both(prediction, reference, question)


def _names_both(prediction: str, reference: str, question: str) -> bool:
    """Whether an answer names another of the words that the question lets choose from: "red or blue" chooses none."""
    offered = alternatives(question)
    return bool(offered) and not (offered & set(numbered(prediction))) <= set(numbered(reference))
