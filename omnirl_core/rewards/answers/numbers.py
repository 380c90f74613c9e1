"""Numbers in answers: signs, thousands separators, fractions, powers of ten, percent, units, number words.

Exact arithmetic throughout: 0.1 + 0.2 is 0.3 here, and 2**70 + 1 is not 2**70. Words are read in English and Chinese in
full up to the hundreds, in other languages up to twenty.
"""

import re
from dataclasses import dataclass, field
from fractions import Fraction
from math import gcd

from omnirl_core.rewards.answers.units import MEASURES, Unit, same_things, unit_at, words_after

MAX_DIGITS = 100  # longer literals are refused: no answer needs them, and converting them is quadratic
MAX_CHARACTERS = 4000  # of an answer that are searched, from the end that `pick` asks for
YEARS = (1500, 2100)
MAX_REPEATS = 100  # of "the only" number


@dataclass(frozen=True)
class Quantity:
    """A number as written, its unit where it has a known one, and whether it is a percentage."""

    value: Fraction
    unit: Unit | None = None
    percent: bool = False
    counts: tuple[str, ...] = field(default=(), compare=False)
    """Words after the number that are no unit: what is counted."""
    year: bool = field(default=False, compare=False)
    """Four bare digits from 1500 to 2100, as a year is written: no relative tolerance applies."""
    evaluated: bool = field(default=True, compare=False)
    """Whether it is no quotient or sign that is left to compute: 3/4 is, 6/8, 1591/43 and --42 are not."""


_HALF_WIDTH = {0xFF01 + i: 0x21 + i for i in range(94)} | {
    0x3000: " ", 0x00A0: " ", 0x202F: " ", 0x2009: " ", 0x2212: "-", 0x2044: "/", 0x3002: ".",
    0x3010: "[", 0x3011: "]", 0x00BD: " 1/2", 0x00BC: " 1/4", 0x00BE: " 3/4",
}  # fmt: skip
_DIGITS = r"(?>\d{1,3}+(?:,\d{3})++(?!\d)(?:\.\d++)?+|\d++(?:\.\d++)?+|\.\d++)"
_TEN = r"\s*+(?:[×x*]|\\times|\\cdot)\s*+10\s*+(?:\^|\*\*)\s*+\{?(?P<ten>[+-]?\d{1,3}+)\}?"
_NUMBER = re.compile(
    # Not part of a word, a date, a time, a range or a sum: 5-3 holds no number, and neither does 17:45.
    r"(?<![\w^_\\])(?<!\d[.,:])(?<![\w)\]][*+/^-])(?<![\w)\]] [*+/^] )(?<!\b[A-Za-z\d] - )"
    r"(?P<sign>[+-]?+)(?P<currency>[$€£¥]?+)(?P<sign_after>[+-]?+)"
    r"(?>(?P<whole>\d{1,9}+)\s++(?P<top>\d{1,9}+)/(?P<bottom>\d{1,9}+)"
    rf"|(?P<digits>{_DIGITS})(?:[eE](?P<e>[+-]?\d{{1,3}}+)|{_TEN})?+(?:\s*+/\s*+(?P<divisor>{_DIGITS}))?+)"
    r"(?![\d^_]|[.,:]\d|\s*+[*+/^×÷-]\s*+[\d(\\]|\s*+[*+^×]\s*+\w|-[A-Za-z]\b)"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*+\{([-\d.]{1,30})\}\s*+\{([\d.]{1,30})\}")
_LATEX_NOISE = re.compile(r"\\(?:text|mathrm|mathbf|boxed|left|right)(?![a-zA-Z])|\\(?=[%$#&])|\\[,;:! ]|\{,\}|[{}]")
_DOLLARS = re.compile(r"\$([^$]*)\$")
_PERCENT = re.compile(r"\s*+(?:%|percent\b|per cent\b)", re.IGNORECASE)
_SCALE_OF = {
    "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "万亿": 10**12, "亿": 10**8, "万": 10**4, "千": 10**3, "百": 100,
}  # fmt: skip
_SCALE = re.compile(r"\s*+(thousand|million|billion|trillion|万亿|亿|万|千|百)(?![a-z])", re.IGNORECASE)
_NAME = re.compile(r"\s*+[A-Za-z]\w{0,9}\s*+=\s*+")  # x = 5
_FEW_WORDS = re.compile(r"(?:\s*+[^\W\d]{1,20}+){0,3}+[\s.]*+")


def half_width(text: str) -> str:
    """Full-width forms, special spaces and minus signs in their ASCII form."""
    return text if text.isascii() else text.translate(_HALF_WIDTH)


def pick_quantity(text: str, pick: str = "last") -> Quantity | None:
    """The last number of a text, the first, or the only one (repeats allowed); None where there is none.

    A number word counts where the text has no digits; "there is no ..." counts as 0.

    >>> str(pick_quantity("3 + 4 = 7").value), str(pick_quantity("1 1/2 cups").value)
    ('7', '3/2')
    >>> pick_quantity("7 or 8", pick="only")
    """
    text = text.strip()
    if pick == "only" and len(text) > MAX_CHARACTERS:
        return None
    text = text[:MAX_CHARACTERS] if pick == "first" else text[-MAX_CHARACTERS:]
    text = _without_latex(half_width(text))
    matches = list(_NUMBER.finditer(text))
    if not matches and not re.search(r"\d", text):
        word = _WORD.match(text)
        value = number_in_words(text, pick)
        if value is None and word is not None:
            value = match_value(word)
        return None if value is None else Quantity(Fraction(value))
    if pick == "only" and len(matches) > MAX_REPEATS:
        return None
    ordered = reversed(matches) if pick == "last" else matches
    readings = (reading[0] for match in ordered if (reading := _read(match, text)) is not None)
    first = next(readings, None)
    return None if pick == "only" and any(other != first for other in readings) else first


def read_quantity(text: str) -> Quantity | None:
    """The number that a text is, if it is one: `42`, `x = 5`, `$25.00`, `3 red cubes`, `seven`; else None.

    >>> read_quantity("25 cm").value, read_quantity("17:45"), read_quantity("2 of 3")
    (Fraction(25, 1), None, None)
    """
    if len(text) > MAX_CHARACTERS:
        return None
    text = _without_latex(half_width(text)).strip()
    name = _NAME.match(text)
    match = _NUMBER.match(text, name.end() if name else 0)
    if match is None:
        word = _WORD.fullmatch(text.rstrip("."))
        value = value_of_word(text.lower()) if word is None else match_value(word)
        return None if value is None else Quantity(Fraction(value))
    reading = _read(match, text)
    return reading[0] if reading and _FEW_WORDS.fullmatch(text, reading[1]) else None


def same_quantity(
    found: Quantity, reference: Quantity, relative_tolerance: float | None, absolute_tolerance: float
) -> bool:
    """Whether two quantities agree. A missing unit agrees with any; a known one converts or contradicts.

    A percentage agrees with the bare number and with its hundredth: 50 % with 50 and with 0.5. Where both say
    what they count, they count the same: 2 cats are not 2 dogs. A year has no relative tolerance.
    """
    relative_tolerance = 0.0 if reference.year and relative_tolerance is not None else relative_tolerance
    values = comparable_values(found, reference)
    return any(_close(value, reference.value, relative_tolerance, absolute_tolerance) for value in values)


def comparable_values(found: Quantity, reference: Quantity) -> list[Fraction]:
    """What `found` can mean beside the reference, in its unit; [] where it measures or counts something else.

    >>> metre, centimetres = read_quantity("1 m"), read_quantity("25 cm")
    >>> comparable_values(metre, centimetres), comparable_values(metre, read_quantity("3 kg"))
    ([Fraction(100, 1)], [])
    """
    if not same_things(found.counts, reference.counts):
        return []
    if found.percent != reference.percent:
        if found.unit or reference.unit:
            return []
        return [found.value, found.value / 100 if found.percent else found.value * 100]
    if found.unit and reference.unit:
        if found.unit.dimension != reference.unit.dimension:
            return []
        return [found.value * found.unit.factor / reference.unit.factor]
    return [found.value]


def _close(value: Fraction, reference: Fraction, relative: float | None, absolute: float) -> bool:
    if relative is None:  # whole numbers are counted, others may have been computed in binary
        relative = 0.0 if value.denominator == reference.denominator == 1 else 1e-9
    return abs(value - reference) <= max(Fraction(absolute), Fraction(relative) * abs(reference))


def _without_latex(text: str) -> str:
    if "\\" in text:
        text = _FRACTION.sub(_plain_fraction, text)
        text = _LATEX_NOISE.sub("", text)
    return _DOLLARS.sub(r"\1", text) if text.count("$") > 1 else text


def _plain_fraction(match: re.Match[str]) -> str:
    mixed = match.string[match.start() - 1 : match.start()].isdigit()  # 2\\frac{1}{2} is 2 1/2
    return f"{' ' * mixed}{match[1]}/{match[2]}"


def _read(match: re.Match[str], text: str) -> tuple[Quantity, int] | None:
    """A quantity and where it ends; None where the number is unreadable or glued to a word (2x, 3rd)."""
    value = _value(match)
    if value is None:
        return None
    evaluated = _is_evaluated(match)
    end = match.end()
    if scale := _SCALE.match(text, end):
        value, end = value * _SCALE_OF[scale[1].lower()], scale.end()
    if percent := _PERCENT.match(text, end):
        return Quantity(value, percent=True, evaluated=evaluated), percent.end()
    if match["currency"]:
        return Quantity(value, unit_at(match["currency"], 0)[0], evaluated=evaluated), end
    gap = text[end : end + 1] == " "
    unit, unit_end = unit_at(text, end + gap)
    if unit is None:
        glued = text[end : end + 1]
        if glued.isascii() and (glued.isalpha() or glued == "\\"):
            return None
        counts, year = words_after(text, end), _is_year(match, text)
        return Quantity(value, counts=counts, year=year, evaluated=evaluated), end
    return Quantity(value, unit, evaluated=evaluated), unit_end


def _is_evaluated(match: re.Match[str]) -> bool:
    """Whether a match is a literal with at most one sign, or a fraction of whole numbers in lowest terms."""
    if match["sign"] and match["sign_after"]:
        return False
    top, bottom = match["top"] or match["digits"], match["bottom"] or match["divisor"]
    if bottom is None:
        return True
    whole = [part.replace(",", "") for part in (top, bottom)]
    return all(map(str.isdigit, whole)) and int(whole[1]) > 1 and gcd(*map(int, whole)) == 1


def _is_year(match: re.Match[str], text: str) -> bool:
    written = text[match.start() : match.end()]
    return len(written) == 4 and written.isdecimal() and YEARS[0] <= int(written) <= YEARS[1]


def _value(match: re.Match[str]) -> Fraction | None:
    if match.end() - match.start() > MAX_DIGITS:
        return None
    if match["whole"]:
        top, bottom = int(match["top"]), int(match["bottom"])
        value = None if bottom == 0 else int(match["whole"]) + Fraction(top, bottom)
    else:
        digits, divisor = (Fraction((match[name] or "1").replace(",", "")) for name in ("digits", "divisor"))
        exponent = int(match["e"] or match["ten"] or 0)
        value = None if divisor == 0 else digits * Fraction(10) ** exponent / divisor
    negative = (match["sign"] == "-") != (match["sign_after"] == "-")
    return value if value is None else -value if negative else value


# --- numbers written as words ---

ENGLISH = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
CHINESE = {char: i for i, char in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}

_FROM_TWO = (
    "zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn",
    "deux trois quatre cinq six sept huit neuf dix onze douze treize",
    "dos tres cuatro cinco seis siete ocho nueve diez",
    "два три четыре пять шесть семь восемь девять десять одиннадцать двенадцать тринадцать",
    "둘 셋 넷 다섯 여섯 일곱 여덟 아홉 열",
)
"""German, French, Spanish, Russian, Korean. Articles (ein, un, uno, один) are left out, and Spanish once."""
OF_OTHERS = {word: value for names in _FROM_TWO for value, word in enumerate(names.split(), 2)}
OF_OTHERS |= {"cero": 0, "ноль": 0, "две": 2, "doce": 12, "trece": 13}

_UNIT = "|".join(sorted(ENGLISH[1:10], key=len, reverse=True))
_SMALL = "|".join(sorted(ENGLISH, key=len, reverse=True))
ENGLISH_PATTERN = (
    rf"(?:(?:{_UNIT}|a)[\s-]+hundred(?:[\s-]+and)?(?:[\s-]+(?:(?:{'|'.join(TENS)})(?:[\s-]+(?:{_UNIT}))?|{_SMALL}))?"
    rf"|(?:{'|'.join(TENS)})(?:[\s-]+(?:{_UNIT}))?|{_SMALL})"
)
CHINESE_PATTERN = rf"[{''.join(CHINESE)}十百]{{1,6}}+"
NUMBERS: dict[str, int] = (
    {word: value for value, word in enumerate(ENGLISH)}
    | {word: 10 * value for value, word in enumerate(TENS, 2)}
    | OF_OTHERS
    | CHINESE
)
"""Value of every single word, in lower case."""

_WORD = re.compile(
    r"\W*+(?:there (?:is|are) |it is |the answer is |答案[是为]|一?共有?|有)?\W*+"
    rf"(?:(?P<english>{ENGLISH_PATTERN})(?![\w])|(?P<chinese>{CHINESE_PATTERN})(?![分起样般直定些]))",
    re.IGNORECASE,
)
_NOT_ONE = r"(?<!no )(?<!the )(?<!this )(?<!that )(?<!any )(?<!every )(?<!each )(?<!some)(?<!no-)(?<!any)(?<!every)"
_IN_WORDS = re.compile(
    rf"{_NOT_ONE}\b(?P<english>{ENGLISH_PATTERN})\b(?!-)"
    rf"|\b(?P<other>{'|'.join(sorted(OF_OTHERS, key=len, reverse=True))})\b"
    rf"|(?P<chinese>{CHINESE_PATTERN})(?=[{MEASURES}])",
    re.IGNORECASE,
)
_NOTHING = re.compile(
    r"(?:none|no \w+)\W*$|\bthere (?:is|are|was|were)(?: no\b|n['’]t any\b| not any\b)|\bnone\b of|没有", re.IGNORECASE
)


def english_value(words: str) -> int:
    """Value of a match of ENGLISH_PATTERN.

    >>> english_value("thirty"), english_value("Twenty-one"), english_value("two hundred and five")
    (30, 21, 205)
    """
    total = 0
    for word in re.split(r"[\s-]+", words.lower()):
        total = max(total, 1) * 100 if word == "hundred" else total + NUMBERS.get(word, 0)
    return total


def chinese_value(chars: str) -> int | None:
    """Value of a match of CHINESE_PATTERN; None where it is no number.

    >>> chinese_value("十二"), chinese_value("二百三十"), chinese_value("十十")
    (12, 230, None)
    """
    hundreds, hundred, rest = chars.rpartition("百")
    tens, ten, ones = rest.rpartition("十")
    ones = ones.removeprefix("零") or ("" if ten or hundred else ones)
    if any(len(part) > 1 or part in ("十", "百") for part in (hundreds, tens.removeprefix("零"), ones)):
        return None
    value = 100 * CHINESE[hundreds] if hundred and hundreds else 0
    if hundred and not hundreds:
        return None
    value += 10 * (CHINESE[tens.removeprefix("零")] if tens.removeprefix("零") else 1) if ten else 0
    return value + (CHINESE[ones] if ones else 0)


def match_value(match: re.Match[str]) -> int | None:
    """Value of a match of `_WORD` or `_IN_WORDS`; None where ideographs are no number."""
    found = match.groupdict()
    if other := found.get("other"):
        return OF_OTHERS[other.lower()]
    return english_value(found["english"]) if found["english"] else chinese_value(found["chinese"])


def value_of_word(word: str) -> int | None:
    """Value of one lower-case word of any of the languages, ideographs aside; None for other words.

    >>> value_of_word("three"), value_of_word("drei"), value_of_word("три"), value_of_word("cat")
    (3, 3, 3, None)
    """
    return None if word in CHINESE else NUMBERS.get(word)


def number_in_words(text: str, pick: str) -> int | None:
    """The last number word of a text, the first, or the only one; None where there is none.

    "There is no cat" counts nothing: 0. "one" counts where it is no pronoun.

    >>> [number_in_words(text, "last") for text in ("I see three dogs", "thirty-one", "There is no cat", "a cat")]
    [3, 31, 0, None]
    """
    values = [value for match in _IN_WORDS.finditer(text) if (value := match_value(match)) is not None]
    if not values:
        return 0 if _NOTHING.search(text) else None
    if pick == "only" and len(set(values)) > 1:
        return None
    return values[0] if pick == "first" else values[-1]
