"""Boxes: read them from text, measure them, carry them between coordinate spaces.

A box is `(x1, y1, x2, y2)` with an exclusive end: its width is `x2 - x1`. Sizes are `(width, height)`.
Rewards, the evaluator and the report all read boxes here, so that they cannot disagree. See docs/boxes.md.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from omnirl_core.types import Box, nearest

Size = tuple[int, int]  # (width, height)

SPACES = ("pixels", "resized", "0-1000", "0-1")
_OF_THOUSAND = ("qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "internvl", "internvl_chat")
SPACE_OF_MODEL_TYPE = {"qwen2_5_vl": "resized"} | dict.fromkeys(_OF_THOUSAND, "0-1000")
MAX_COORDINATE = 1e9  # larger numbers are no pixels; their areas would lose every digit of the difference
MAX_DIGITS = 32
MAX_DEPTH = 64
MAX_BRACKETS = 4096  # more is no answer; without a limit, 50,000 brackets cost 0.1 s
LABEL_KEYS = ("label", "category", "class", "class_name", "category_name", "name", "category_id")
SCORE_KEYS = ("score", "confidence", "prob", "probability")
CORNER_KEYS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))


@dataclass(frozen=True)
class LabelledBox:
    """One detection: its box, and the label and score that stood beside it (None when none did)."""

    box: Box
    label: str | None = None
    score: float | None = None


def parse_boxes(source: object) -> list[Box]:
    """Boxes in the order of the text, corners sorted; `source` is text or what JSON made of it.

    Reads `[x1, y1, x2, y2]`, `(x1, y1, x2, y2)`, two points `(x1, y1), (x2, y2)`, and those in dictionaries
    under any key. Four numbers alone are a box too. Numbers beyond 1e9 or not finite are refused with their
    box. One pass, linear; it stops at the 4,097th open bracket or where they nest deeper than 64.

    >>> parse_boxes('```json\\n[{"bbox_2d": [10, 20, 110.5, 220], "label": "dog"}]\\n```')
    [(10.0, 20.0, 110.5, 220.0)]
    >>> parse_boxes("from (30, 40) to (10, 20)? No: (1, 2), (3, 4)")
    [(1.0, 2.0, 3.0, 4.0)]
    """
    return [labelled.box for labelled in parse_labelled_boxes(source)]


def parse_labelled_boxes(source: object) -> list[LabelledBox]:
    """`parse_boxes` with the label and the score of the dictionary that holds each box.

    A list of five numbers whose last is in [0, 1] is a box and its score.

    >>> parse_labelled_boxes([{"bbox_2d": [1, 2, 3, 4], "label": "cat", "score": 0.9}])
    [LabelledBox(box=(1.0, 2.0, 3.0, 4.0), label='cat', score=0.9)]
    """
    if not isinstance(source, str):
        # numpy's scalars and arrays become numbers and lists, what else JSON cannot write its text
        source = json.dumps(
            source, ensure_ascii=False, skipkeys=True, default=lambda x: getattr(x, "tolist", x.__str__)()
        )
    scanner = _Scanner(source if source.isascii() else source.translate(_ASCII))
    found = sorted(scanner.scan(), key=lambda one: one.position)
    return [LabelledBox(_sorted_corners(one.numbers), one.label, one.score) for one in found]


def area(box: Box) -> float:
    """Width times height; 0.0 where a side is not positive."""
    x1, y1, x2, y2 = box
    return max(0.0, x2 - x1) * max(0.0, y2 - y1)


def iou(a: Box, b: Box) -> float:
    """Intersection over union, continuous, in [0, 1]; 0.0 where either box has no area.

    >>> iou((0, 0, 2, 2), (1, 0, 3, 2))
    0.3333333333333333
    """
    inter, union = _inter_and_union(a, b)
    return min(1.0, inter / union) if union > 0 else 0.0


def giou(a: Box, b: Box) -> float:
    """Generalised IoU (Rezatofighi et al. 2019), in [-1, 1]; -1.0 where neither box has an area.

    >>> giou((0, 0, 1, 1), (2, 0, 3, 1))
    -0.3333333333333333
    """
    inter, union = _inter_and_union(a, b)
    hull = area((min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])))
    if union <= 0 or hull <= 0:
        return -1.0
    return max(-1.0, min(1.0, inter / union - (hull - union) / hull))


def _inter_and_union(a: Box, b: Box) -> tuple[float, float]:
    inter = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    return inter, area(a) + area(b) - inter


def to_pixels(box: Box, space: str, image_size: Size | None = None, resized_size: Size | None = None) -> Box:
    """A box of `space` in pixels of the original image. A size may be None where the space does not need it.

    >>> to_pixels((100, 250, 500, 1000), "0-1000", image_size=(640, 480))
    (64.0, 120.0, 320.0, 480.0)
    """
    kx, ky = _pixels_per_unit(space, image_size, resized_size)
    return (box[0] * kx, box[1] * ky, box[2] * kx, box[3] * ky)


def from_pixels(box: Box, space: str, image_size: Size | None = None, resized_size: Size | None = None) -> Box:
    """The inverse of `to_pixels`: from pixels of the original image to `space`, as the model would say it.

    >>> from_pixels((64, 120, 320, 480), "resized", image_size=(640, 480), resized_size=(1280, 480))
    (128.0, 120.0, 640.0, 480.0)
    """
    kx, ky = _pixels_per_unit(space, image_size, resized_size)
    return (box[0] / kx, box[1] / ky, box[2] / kx, box[3] / ky)


def default_space(model_type: str) -> str:
    """The space a model family answers in, by `config.model_type`.

    >>> default_space("qwen2_5_vl"), default_space("internvl")
    ('resized', '0-1000')
    """
    if model_type in SPACE_OF_MODEL_TYPE:
        return SPACE_OF_MODEL_TYPE[model_type]
    raise ValueError(
        f"no default box space for model type {model_type!r}; set `space` to one of {', '.join(SPACES)}: the one its "
        f"model card answers in{nearest(model_type, SPACE_OF_MODEL_TYPE, only_close=True)}"
    )


def resized_size(
    image_size: Size, factor: int = 28, min_pixels: int = 56 * 56, max_pixels: int = 28 * 28 * 1280
) -> Size:
    """Size to which a Qwen-VL processor resizes an image: sides multiples of `factor`, area bounded.

    `factor` is patch size times merge size: 28 for Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL.

    >>> resized_size((640, 427)), resized_size((1920, 1080))
    ((644, 420), (1316, 728))
    """
    _check_size("image_size", image_size)
    if max(image_size) / min(image_size) > 200:
        raise ValueError(f"image_size {image_size}: a side is over 200 times the other; processors refuse it")
    pixels = image_size[0] * image_size[1]
    width, height = (round(side / factor) * factor for side in image_size)
    if width * height > max_pixels:
        shrink = math.sqrt(pixels / max_pixels)
        width, height = (max(factor, math.floor(side / shrink / factor) * factor) for side in image_size)
    elif width * height < min_pixels:
        grow = math.sqrt(min_pixels / pixels)
        width, height = (math.ceil(side * grow / factor) * factor for side in image_size)
    return width, height


def _pixels_per_unit(space: str, image_size: Size | None, resized: Size | None) -> tuple[float, float]:
    if space == "pixels":
        return 1.0, 1.0
    if space not in SPACES:
        raise ValueError(f"box space {space!r} is none of {', '.join(SPACES)}")
    width, height = _check_size("image_size", image_size)
    if space == "0-1":
        return float(width), float(height)
    if space == "0-1000":
        return width / 1000, height / 1000
    resized_width, resized_height = _check_size("resized_size", resized)
    return width / resized_width, height / resized_height


def _check_size(name: str, size: Size | None) -> Size:
    if size is None or len(size) != 2 or not (size[0] > 0 and size[1] > 0):
        raise ValueError(f"{name} must be a positive (width, height) here, not {size!r}")
    return size


def _sorted_corners(numbers: list[float]) -> Box:
    x1, y1, x2, y2 = numbers
    return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


# The scanner: one pass over tokens with a stack of open brackets. No backtracking, no recursion.

_ASCII = {0xFF01 + i: 0x21 + i for i in range(94)} | {0x2212: "-", 0x3001: ",", 0x3010: "[", 0x3011: "]"}
_NUMBER = r"[+-]?+(?:\d++(?:\.\d*+)?+|\.\d++)(?:[eE][+-]?+\d++)?+"
_ROW = rf"[ \t]*+{_NUMBER}(?:[ \t]*+[,;][ \t]*+{_NUMBER}){{3,4}}+[ \t]*+"
_TOKEN = re.compile(
    rf"""(?P<number>{_NUMBER}) | (?P<row>\[{_ROW}\]|\({_ROW}\))  # a box in one token
      | (?P<open>[\[({{]) | (?P<close>[\])}}]) | (?P<comma>[,;]) | (?P<colon>:) | (?P<quote>["'])
      | \n | (?P<word>[^\W\d]\w*+)
      | (?P<other>\\.|(?:[^\s\w\\\[\](){{}},;:"'.+-]|[+-](?![\d.])|\.(?!\d))++|[^\s\w])""",
    re.VERBOSE,
)
_OPENER_OF = {"]": "[", ")": "(", "}": "{"}
_Token = re.Match[str]


@dataclass(slots=True)
class _Found:
    position: int
    numbers: list[float]
    label: str | None = None
    score: float | None = None


@dataclass(slots=True)
class _Dictionary:
    position: int
    key: str | None = None
    fields: dict[str, str | float] = field(default_factory=dict)
    boxes: list[_Found] = field(default_factory=list)


@dataclass(slots=True)
class _Frame:
    """An open bracket: the numbers and points directly inside, and the nearest `{` (maybe itself)."""

    opener: str
    position: int
    dictionary: _Dictionary | None
    numbers: list[float] = field(default_factory=list)
    only_numbers: bool = True
    points: list[tuple[int, list[float]]] | None = None


class _Scanner:
    def __init__(self, text: str):
        self.text = text
        self.found: list[_Found] = []
        self.stack = [_Frame("", 0, None)]
        self.n_open = {"[": 0, "(": 0, "{": 0}
        self.n_brackets = 0
        self.full = False  # too many or too deep: nothing more is read
        self.last_kind = "open"  # kind and end of the token before this one
        self.last_end = 0
        self.atom: str | None = None  # a word or string, which a colon turns into a key
        self.string: _Token | None = None  # the quote that opened the string we are in

    def scan(self) -> list[_Found]:
        on_kind: dict[str, Callable[[_Token], None]] = {kind: getattr(self, "_" + kind) for kind in _TOKEN.groupindex}
        for token in _TOKEN.finditer(self.text):
            kind = token.lastgroup or ""
            if self.string is not None:
                self._in_string(token, kind)
            elif kind:
                on_kind[kind](token)
                self.last_kind, self.last_end = kind, token.end()
                if self.full:
                    break
        while len(self.stack) > 1:  # cut off: a closed box keeps its label, an open one is no box
            self._drop(self.stack.pop())
        self._end_points(self.stack[0])
        self._end_list(self.stack[0])
        return self.found

    def _row(self, token: _Token) -> None:
        """Four or five numbers in brackets, as `_open`, `_number`, `_comma` and `_close` would read them."""
        self.n_brackets += 1
        self.full = len(self.stack) >= MAX_DEPTH or self.n_brackets > MAX_BRACKETS
        if self.full:
            return
        written = token.group()[1:-1].replace(";", ",").split(",")
        numbers = [float(one) if len(one.strip()) <= MAX_DIGITS else math.inf for one in written]
        self._other(token)
        self.atom = None
        if max(map(abs, numbers)) <= MAX_COORDINATE:
            self._end_list(_Frame("", token.start(), self.stack[-1].dictionary, numbers))

    def _number(self, token: _Token) -> None:
        top = self.stack[-1]
        value = float(token.group()) if token.end() - token.start() <= MAX_DIGITS else math.inf
        glued = token.start() == self.last_end and self.last_kind in ("number", "word")  # 1.2.3 or 10-20
        if glued or abs(value) > MAX_COORDINATE:
            self._other(token)
        elif top.opener == "{":
            self._set_field(value)
        else:
            top.numbers.append(value)
            self._end_points(top)

    def _word(self, token: _Token) -> None:
        self._other(token)
        self.atom = token.group()

    def _other(self, token: _Token) -> None:
        self.stack[-1].only_numbers = False
        self._end_points(self.stack[-1])

    def _comma(self, token: _Token) -> None:
        self.atom = None
        if self.stack[-1].opener == "{":
            self._at_key(None)

    def _colon(self, token: _Token) -> None:
        if self.stack[-1].opener == "{":
            self._at_key(self.atom)
        else:
            self._other(token)

    def _quote(self, token: _Token) -> None:
        """A string opens only where JSON has one; elsewhere a quote is an apostrophe or a mark of speech."""
        self._other(token)
        if self.stack[-1].opener in ("{", "[") and self.last_kind in ("open", "comma", "colon"):
            self.string = token

    def _in_string(self, token: _Token, kind: str) -> None:
        assert self.string is not None
        if not kind:  # a line break, which JSON strings do not hold: never closed
            self.string = None
        elif kind == "quote" and token.group() == self.string.group():
            self.atom = self.text[self.string.end() : token.start()]
            if self.stack[-1].opener == "{":
                self._set_field(self.atom)
            self.string, self.last_kind, self.last_end = None, "string", token.end()

    def _at_key(self, key: str | None) -> None:
        dictionary = self.stack[-1].dictionary
        assert dictionary is not None
        dictionary.key = key.strip().casefold() if key else None

    def _set_field(self, value: str | float) -> None:
        dictionary = self.stack[-1].dictionary
        if dictionary is not None and dictionary.key:
            dictionary.fields.setdefault(dictionary.key, value)

    def _open(self, token: _Token) -> None:
        opener = token.group()
        dictionary = _Dictionary(token.start()) if opener == "{" else self.stack[-1].dictionary
        self.stack.append(_Frame(opener, token.start(), dictionary))
        self.n_open[opener] += 1
        self.n_brackets += 1
        self.full = len(self.stack) > MAX_DEPTH or self.n_brackets > MAX_BRACKETS

    def _close(self, token: _Token) -> None:
        opener = _OPENER_OF[token.group()]
        if not self.n_open[opener]:
            self._other(token)
            return
        while (frame := self.stack.pop()).opener != opener:  # left open inside: each is dropped once
            self._drop(frame)
        self._drop(frame)
        parent = self.stack[-1]
        parent.only_numbers = False
        if opener != "{" and frame.only_numbers and len(frame.numbers) == 2:
            parent.points = [*(parent.points or [])[:2], (frame.position, frame.numbers)]
        else:
            self._end_points(parent)
            self._end_list(frame)
        self.atom = None

    def _drop(self, frame: _Frame) -> None:
        self.n_open[frame.opener] -= 1
        self._end_points(frame)
        if frame.opener == "{" and frame.dictionary is not None:
            self._end_dictionary(frame.dictionary)

    def _end_list(self, frame: _Frame) -> None:
        numbers = frame.numbers
        if frame.only_numbers and len(numbers) == 4:
            self._add(_Found(frame.position, numbers), frame.dictionary)
        elif frame.only_numbers and len(numbers) == 5 and 0 <= numbers[4] <= 1:
            self._add(_Found(frame.position, numbers[:4], score=numbers[4]), frame.dictionary)

    def _end_points(self, frame: _Frame) -> None:
        """Two points in a row are corners; three or more are a polygon."""
        if frame.points and len(frame.points) == 2:
            (position, first), (_, second) = frame.points
            self._add(_Found(position, first + second), frame.dictionary)
        frame.points = None

    def _end_dictionary(self, dictionary: _Dictionary) -> None:
        fields = dictionary.fields
        for keys in CORNER_KEYS:
            numbers = [value for key in keys if isinstance(value := fields.get(key), float)]
            if len(numbers) == 4:
                self._add(_Found(dictionary.position, numbers), dictionary)
        label = next((fields[key] for key in LABEL_KEYS if key in fields), None)
        score = next((fields[key] for key in SCORE_KEYS if isinstance(fields.get(key), float)), None)
        for found in dictionary.boxes:
            found.label = f"{label:g}" if isinstance(label, float) else label and _unescaped(label)
            found.score = score if isinstance(score, float) else found.score

    def _add(self, found: _Found, dictionary: _Dictionary | None) -> None:
        self.found.append(found)
        if dictionary is not None:
            dictionary.boxes.append(found)


def _unescaped(string: str) -> str:
    try:
        return json.loads(f'"{string}"') if "\\" in string else string
    except ValueError:  # a stray backslash: the label stays as it was written
        return string
