"""Numbers written as words: English and Chinese in full up to the hundreds, other languages up to twenty."""

import re

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


def english_value(words: str) -> int:
    """Value of a match of ENGLISH_PATTERN.

    >>> english_value("thirty"), english_value("Twenty-one"), english_value("two hundred and five")
    (30, 21, 205)
    """
    total = 0
    for word in re.split(r"[\s-]+", words.lower()):
        if word == "hundred":
            total = max(total, 1) * 100
        elif word in TENS:
            total += 10 * (TENS.index(word) + 2)
        elif word in ENGLISH:
            total += ENGLISH.index(word)
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
    """Value of a match of one of the two patterns, in a group of the language's name."""
    return english_value(match["english"]) if match["english"] else chinese_value(match["chinese"])


NUMBERS: dict[str, int] = (
    {word: value for value, word in enumerate(ENGLISH)}
    | {word: 10 * value for value, word in enumerate(TENS, 2)}
    | OF_OTHERS
    | CHINESE
)
"""Value of every single word, in lower case."""


def value_of_word(word: str) -> int | None:
    """Value of one lower-case word of any of the languages, ideographs aside; None for other words.

    >>> value_of_word("three"), value_of_word("drei"), value_of_word("три"), value_of_word("cat")
    (3, 3, 3, None)
    """
    return None if word in CHINESE else NUMBERS.get(word)
