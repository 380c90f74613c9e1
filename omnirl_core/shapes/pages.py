"""Pages of text, bars and rules, drawn from glyphs that are part of this file: no font of the machine is used.

A page is a grid of cells, 8 x 16 pixels each, with one character in a cell. Sizes are multiples of 16 pixels, so that
a small vision tower sees whole characters.
"""

from dataclasses import dataclass
from functools import cache

from PIL import Image

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
