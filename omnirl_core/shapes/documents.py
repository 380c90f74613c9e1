"""Questions about drawn pages, each with its exact answer: forms, tables, bar charts and notes.

Eight tasks: `field` reads a form, `cell` and `rows` a table, `bar` and `longest` a chart, `word`, `line` and `page` a
note. What `page` asks for is judged by unit tests; every other solution is a text or a number. The split follows from
a hash of what is asked and shown, as for shapes.

A page is a grid of cells, 8 x 16 pixels each, with one character in a cell, drawn from glyphs that are part of this
file: no font of the machine is used. Sizes are multiples of 16 pixels, so that a small vision tower sees whole
characters.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from PIL import Image

from .tasks import Example, phrased

CELL_WIDTH, CELL_HEIGHT = 8, 16
INKS = ((32, 36, 44), (24, 58, 120), (110, 30, 44), (20, 84, 60))
PAPERS = ((255, 255, 255), (250, 247, 238), (238, 243, 248), (240, 246, 238))
BARS = ((36, 99, 214), (214, 90, 49), (46, 150, 67), (142, 68, 173))
RULE = (150, 156, 166)

GLYPHS = {
    " ": "00000000000000",
    "A": "0E11111F111111", "B": "1E11111E11111E", "C": "0E11101010110E", "D": "1E11111111111E", "E": "1F10101E10101F",
    "F": "1F10101E101010", "G": "0E11101711110F", "H": "1111111F111111", "I": "0E04040404040E", "J": "0702020202120C",
    "K": "11121418141211", "L": "1010101010101F", "M": "111B1515111111", "N": "11111915131111", "O": "0E11111111110E",
    "P": "1E11111E101010", "Q": "0E11111115120D", "R": "1E11111E141211", "S": "0F10100E01011E", "T": "1F040404040404",
    "U": "1111111111110E", "V": "11111111110A04", "W": "1111111515150A", "X": "11110A040A1111", "Y": "11110A04040404",
    "Z": "1F01020408101F", "0": "0E11131519110E", "1": "040C040404040E", "2": "0E11010204081F", "3": "1F02040201110E",
    "4": "02060A121F0202", "5": "1F101E0101110E", "6": "0608101E11110E", "7": "1F010204080808", "8": "0E11110E11110E",
    "9": "0E11110F01020C", ".": "00000000000C0C", ":": "000C0C000C0C00", "-": "0000001F000000",
}  # fmt: skip
"""Seven rows of five pixels for each character, two hexadecimal digits a row."""
_STRETCHED = (0, 1, 1, 2, 3, 4, 5, 5, 6)  # the row of the glyph that each of the nine rows drawn shows


@cache
def glyph(character: str) -> Image.Image:
    """The ink of a character in its cell, 8 x 16 pixels of 0 and 255.

    >>> glyph("-").getbbox()
    (2, 7, 7, 8)
    """
    cell = Image.new("L", (CELL_WIDTH, CELL_HEIGHT))
    rows = bytes.fromhex(GLYPHS[character])
    for y, row in enumerate(_STRETCHED):
        for x in range(5):
            cell.putpixel((2 + x, 3 + y), 255 * (rows[row] >> (4 - x) & 1))
    return cell


@dataclass(frozen=True)
class Page:
    """Lines of text on a page, with filled rectangles under them.

    Args:
        lines: of capitals, digits and `. : -`, each at most `columns` characters.
        columns: characters that fit on a line.
        marks: `(x1, y1, x2, y2, color)`, pixels with an exclusive end: the bars of a chart, the rules of a table.
    """

    lines: tuple[str, ...]
    columns: int
    ink: tuple[int, int, int] = INKS[0]
    paper: tuple[int, int, int] = PAPERS[0]
    marks: tuple[tuple[int, int, int, int, tuple[int, int, int]], ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.columns * CELL_WIDTH, len(self.lines) * CELL_HEIGHT

    @property
    def shown(self) -> object:
        """What the page says, whatever its colours."""
        return self.lines, [mark[:4] for mark in self.marks]

    def draw(self) -> Image.Image:
        """The image, RGB, `size` pixels.

        >>> page = Page(("NAME  ADA", "ROOM  12"), columns=12)
        >>> page.draw().size
        (96, 32)
        """
        image = Image.new("RGB", self.size, self.paper)
        for x1, y1, x2, y2, color in self.marks:
            image.paste(color, (x1, y1, x2, y2))
        for row, line in enumerate(self.lines):
            for column, character in enumerate(line):
                image.paste(self.ink, (column * CELL_WIDTH, row * CELL_HEIGHT), glyph(character))
        return image


COLUMNS = 12
NAMES = ("ADA", "ELIF", "EMMA", "IVAN", "LENA", "LEO", "MIA", "NOAH", "OMAR", "RAJ", "YUKI", "ZOE")
CITIES = ("ACCRA", "BERN", "CAIRO", "DELHI", "KYOTO", "LIMA", "OSLO", "PARIS", "QUITO", "RIGA", "ROME", "TUNIS")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
ITEMS = ("BEAN", "CAKE", "CORN", "EGGS", "FISH", "JAM", "MILK", "OIL", "PLUM", "RICE", "SALT", "TEA")
FIRST = ("BIG", "DRY", "NEW", "OLD", "RED", "SAD", "TAN", "WET")
SECOND = ("BOAT", "CLOCK", "DOOR", "FOX", "HILL", "HORSE", "LAMP", "RIVER", "SHIP", "TREE")
FIELDS: dict[str, Callable[[random.Random], str]] = {
    "NAME": lambda rng: rng.choice(NAMES),
    "CITY": lambda rng: rng.choice(CITIES),
    "DATE": lambda rng: f"{rng.randint(1, 28):2d} {rng.choice(MONTHS)}",
    "ROOM": lambda rng: f"{rng.randint(1, 99):2d}",
    "CODE": lambda rng: f"{rng.choice('ABCDEFGH')}{rng.randint(1, 9)}",
}
HEADINGS = ("QTY", "EUR")
AXIS = 4 * CELL_WIDTH  # pixels from the left to the foot of the bars
LARGEST = 70  # of a bar; ten are `CELL_WIDTH` pixels


def _page(lines: Sequence[str], rng: random.Random, marks: Sequence[tuple] = ()) -> Page:
    return Page(tuple(lines), COLUMNS, rng.choice(INKS), rng.choice(PAPERS), tuple(marks))


def form(rng: random.Random) -> tuple[Page, dict[str, str]]:
    """Three or four fields with their values, spaces aside."""
    names = rng.sample(sorted(FIELDS), rng.randint(3, 4))
    values = {name: FIELDS[name](rng) for name in names}
    page = _page([f"{name:6}{value}" for name, value in values.items()], rng)
    return page, {name: value.strip() for name, value in values.items()}


def grid(rng: random.Random) -> tuple[Page, dict[str, tuple[int, int]]]:
    """A table: two to four items with their numbers under the `HEADINGS`."""
    rows = {item: (rng.randint(1, 99), rng.randint(1, 99)) for item in rng.sample(ITEMS, rng.randint(2, 4))}
    lines = [f"{item:4}{a:4}{b:4}" for item, (a, b) in rows.items()]
    rule = (0, CELL_HEIGHT - 1, COLUMNS * CELL_WIDTH, CELL_HEIGHT, RULE)
    return _page(["ITEM QTY EUR", *lines], rng, [rule]), rows


def chart(rng: random.Random) -> tuple[Page, dict[str, int]]:
    """Three or four bars over an axis, each of another length: multiples of ten."""
    items = rng.sample(ITEMS, rng.randint(3, 4))
    values = dict(zip(items, rng.sample(range(10, LARGEST + 1, 10), len(items)), strict=True))
    color = rng.choice(BARS)
    tops = [row * CELL_HEIGHT for row in range(len(items))]
    bars = [
        (AXIS, top + 3, AXIS + value * CELL_WIDTH // 10, top + 13, color)
        for top, value in zip(tops, values.values(), strict=True)
    ]
    foot = len(items) * CELL_HEIGHT
    axes = [(AXIS - 1, 0, AXIS, foot, RULE), (AXIS - 1, foot, COLUMNS * CELL_WIDTH, foot + 1, RULE)]
    return _page([*items, "    0  30 60"], rng, [*axes, *bars]), values


def note(rng: random.Random) -> tuple[Page, list[str]]:
    """Two to four lines of two words each."""
    n = rng.randint(2, 4)
    lines = [" ".join(pair) for pair in zip(rng.sample(FIRST, n), rng.sample(SECOND, n), strict=True)]
    return _page(lines, rng), lines


def field(rng: random.Random) -> Example:
    """What is the value of a field?"""
    page, values = form(rng)
    name = rng.choice(sorted(values))
    asks = ("What is the {}?", "Read the {}.", "Tell me the {} of the form.")
    return phrased("field", asks, name, values[name], f"{name} {values[name]}", (page,), rng)


def cell(rng: random.Random) -> Example:
    """Which number stands in a row and column of the table?"""
    page, rows = grid(rng)
    item, column = rng.choice(sorted(rows)), rng.randrange(2)
    a, b = rows[item]
    asks = ("What is the {}?", "Read the {}.", "Tell me the {} in the table.")
    key = f"{HEADINGS[column]} of {item}"
    return phrased("cell", asks, key, rows[item][column], f"{item} {a} {b}", (page,), rng)


def rows(rng: random.Random) -> Example:
    """How many items are in the table?"""
    page, table = grid(rng)
    asks = ("How many items are there?", "Count the items.", "Tell me the number of items.")
    return phrased("rows", asks, "", len(table), " ".join(table), (page,), rng)


def bar(rng: random.Random) -> Example:
    """How long is a bar?"""
    page, values = chart(rng)
    item = rng.choice(sorted(values))
    asks = ("What is the value of {}?", "Read the bar of {}.", "Tell me how much {} has.")
    return phrased("bar", asks, item, values[item], item, (page,), rng)


def longest(rng: random.Random) -> Example:
    """Which bar is the longest?"""
    page, values = chart(rng)
    said = " ".join(f"{item} {value}" for item, value in values.items())
    asks = ("Which bar is the longest?", "Name the longest bar.", "Tell me which item has most.")
    return phrased("longest", asks, "", max(values, key=lambda item: values[item]), said, (page,), rng)


def word(rng: random.Random) -> Example:
    """Is a word on the page?"""
    page, lines = note(rng)
    shown = [one for line in lines for one in line.split()]
    others = [one for one in (*FIRST, *SECOND) if one not in shown]
    asked = rng.choice(shown if rng.random() < 0.5 else others)
    asks = ("Is {} on the page?", "Look for {}: yes or no?", "Tell me whether the page says {}.")
    there = asked in shown
    thought = next((line for line in lines if asked in line.split()), f"no {asked}")
    return phrased("word", asks, asked, "yes" if there else "no", thought, (page,), rng)


def line(rng: random.Random) -> Example:
    """What does a line say?"""
    page, lines = note(rng)
    n = rng.randrange(len(lines))
    asks = ("What does line {} say?", "Read line {}.", "Tell me the text of line {}.")
    return phrased("line", asks, str(n + 1), lines[n], f"line {n + 1}", (page,), rng)


def page(rng: random.Random) -> Example:
    """Transcribe the note; the solution is a list of tests, as `unit_tests` takes it."""
    drawn, lines = note(rng)
    tests = [{"type": "present", "text": one} for one in lines]
    tests += [{"type": "order", "before": a, "after": b} for a, b in pairwise(lines)]
    mixed = f"{lines[0].split()[0]} {lines[1].split()[1]}"  # words of two lines are no line
    tests.append({"type": "absent", "text": mixed})
    asks = ("Transcribe the page.", "Read the page.", "Tell me all that the page says.")
    return phrased("page", asks, "", tests, f"{len(lines)} lines", (drawn,), rng)


DOCUMENTS: dict[str, Callable[[random.Random], Example]] = {
    "field": field,
    "cell": cell,
    "rows": rows,
    "bar": bar,
    "longest": longest,
    "word": word,
    "line": line,
    "page": page,
}
"""The tasks about pages, each with what asks for it."""


def make_document(task: str, rng: random.Random, split: str) -> Example:
    """The next example of a task about pages and of a split from a random stream.

    >>> example = make_document("field", random.Random(1), "train")
    >>> example.problem, example.solution
    ('Read the CITY.', 'PARIS')
    """
    while True:
        example = DOCUMENTS[task](rng)
        if example.split == split:
            return example
