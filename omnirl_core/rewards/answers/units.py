"""Units of measurement after a number: `cm`, `km/h`, `m^2`, `平方米`; enough to compare 25 cm with 0.25 m."""

import re
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Unit:
    """What is measured (powers of base quantities) and how many base units this one is."""

    dimension: tuple[tuple[str, int], ...]
    factor: Fraction = Fraction(1)


_TABLE: dict[str, dict[str, str]] = {  # quantity -> factor -> names; Latin plurals in -s are understood
    "length": {
        "1": "m meter metre 米",
        "1/100": "cm centimeter centimetre 厘米",
        "1/1000": "mm millimeter millimetre 毫米",
        "1000": "km kilometer kilometre 千米 公里",
        "0.0254": "inch inches",
        "0.3048": "ft foot feet",
        "0.9144": "yd yard",
        "1609.344": "mi mile",
    },
    "mass": {
        "1": "g gram 克",
        "1/1000": "mg milligram 毫克",
        "1000": "kg kilogram 千克 公斤",
        "1000000": "tonne 吨",
        "453.59237": "lb pound",
    },
    "time": {
        "1": "s sec second 秒",
        "1/1000": "ms millisecond 毫秒",
        "60": "min minute 分钟",
        "3600": "h hr hour 小时",
        "86400": "day 天",
        "604800": "week 周",
    },
    "volume": {"1": "l L liter litre 升", "1/1000": "ml mL milliliter millilitre 毫升"},
    "angle": {"1": "° deg degree 度", "180/3.14159265358979": "rad radian"},
    "celsius": {"1": "°C ℃ 摄氏度"},
    "fahrenheit": {"1": "°F ℉ 华氏度"},
    "dollar": {"1": "$ dollar USD 美元", "1/100": "¢ cent"},
    "euro": {"1": "€ euro EUR 欧元"},
    "pound": {"1": "£ GBP 英镑"},
    "yuan": {"1": "¥ yuan RMB CNY 元 块"},
    "energy": {"1": "J joule", "1000": "kJ kilojoule"},
    "power": {"1": "W watt", "1000": "kW kilowatt"},
    "force": {"1": "N newton"},
    "voltage": {"1": "V volt"},
    "current": {"1": "A amp ampere"},
    "frequency": {"1": "Hz hertz", "1000": "kHz", "1000000": "MHz", "1000000000": "GHz"},
}


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
_SYMBOLS = "|".join(
    sorted((re.escape(name) for name in _UNITS if not name.isascii() or name == "$"), key=len)[::-1]
)
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
