"""What a number measures or counts: units, and the things that are counted."""

import re
import tomllib
from dataclasses import dataclass
from fractions import Fraction
from importlib.resources import files

from omnirl_core.rewards.overlap.words import STEMS, wordnet


@dataclass(frozen=True)
class Unit:
    """What is measured (powers of base quantities) and how many base units this one is."""

    dimension: tuple[tuple[str, int], ...]
    factor: Fraction = Fraction(1)


_TABLE: dict[str, dict[str, str]] = tomllib.loads(
    files("omnirl_core.rewards.answers").joinpath("units.toml").read_text(encoding="utf-8")
)  # quantity -> factor -> names


def _fraction(text: str) -> Fraction:
    top, _, bottom = text.partition("/")
    return Fraction(top) / Fraction(bottom or "1")


_UNITS = {
    name: (quantity, _fraction(factor))
    for quantity, rows in _TABLE.items()
    for factor, names in rows.items()
    for name in names.split()
}
_POWER_BEFORE = {"square": 2, "sq": 2, "cubic": 3, "平方": 2, "立方": 3}
_POWER_AFTER = {"²": 2, "^2": 2, "^{2}": 2, "2": 2, "³": 3, "^3": 3, "^{3}": 3, "3": 3}
_SYMBOLS = "|".join(sorted((re.escape(name) for name in _UNITS if not name.isascii() or name == "$"), key=len)[::-1])
_ATOM = re.compile(
    rf"(?:(?P<before>square|sq\.?|cubic)\s+|(?P<cjk_before>平方|立方))?"
    rf"(?:(?P<symbol>{_SYMBOLS})|(?P<latin>[A-Za-z]{{1,12}}+)(?![A-Za-z]))(?P<after>²|³|\^\{{?[23]\}}?|[23](?!\d))?"
)


def unit_at(text: str, position: int) -> tuple[Unit | None, int]:
    """The unit that starts at `position`, and where it ends; None where the word there is no known unit.

    >>> unit_at("25 km/h", 3)
    (Unit(dimension=(('length', 1), ('time', -1)), factor=Fraction(5, 18)), 7)
    """
    first = _atom_at(text, position)
    if first is None:
        return None, position
    quantity, power, factor, end = first
    dimension = {quantity: power}
    over = _atom_at(text, end + 1) if text[end : end + 1] == "/" else None
    if over is not None:
        quantity, power, divisor, end = over
        dimension[quantity] = dimension.get(quantity, 0) - power
        factor /= divisor
    return Unit(tuple(sorted(dimension.items())), factor), end


def _atom_at(text: str, position: int) -> tuple[str, int, Fraction, int] | None:
    match = _ATOM.match(text, position)
    if match is None:
        return None
    name = match["symbol"] or match["latin"]
    known = next((_UNITS[form] for form in _forms(name) if form in _UNITS), None)
    if known is None:
        return None
    quantity, factor = known
    before = (match["before"] or match["cjk_before"] or "").rstrip(".")
    power = _POWER_BEFORE.get(before, 1) * _POWER_AFTER.get(match["after"] or "", 1)
    return quantity, power, factor**power, match.end()


def _forms(name: str) -> list[str]:
    """The name as written (mW is not MW), then singular and lower case, for names longer than a symbol."""
    forms = [name]
    if len(name) > 2:
        forms += [name.lower(), name.lower().removesuffix("s")]
    return forms


MEASURES = "个只条头匹名位本辆台张把朵棵座件块杯瓶次岁人年天枚支双对层"
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


def words_after(text: str, end: int) -> tuple[str, ...]:
    """The next few words after a number, up to the end of its clause.

    >>> words_after("2 brown dogs, one cat", 1)
    ('brown', 'dogs')
    """
    match = _AFTER.match(text, end)
    return tuple(match.group().lower().split()) if match else ()


def same_things(found: tuple[str, ...], reference: tuple[str, ...]) -> bool:
    """Whether what an answer counts can be what the reference counts; words missing on one side are no fault.

    >>> same_things(("dogs",), ("dog",)), same_things(("cats",), ("dogs",)), same_things((), ("dogs",))
    (True, False, True)
    """
    named = [word for word in found if word not in _LITTLE]
    wanted = _noun(reference)
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
