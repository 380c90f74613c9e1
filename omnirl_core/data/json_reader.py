"""Rows of `.json` lists and `.jsonl` files with the line that each one starts on, read in linear time.

Stricter than `json.load`: a key twice in one object, NaN, infinities and lone surrogates are faults, since a
trainer would meet them much later and without a line number.
"""

import codecs
import json
import math
import re
from collections.abc import Container, Iterator
from typing import IO, Any, NamedTuple

from omnirl_core.data.record import DataError, shown

_SPACES = " \t\n\r"
_SPACE = re.compile(f"[{_SPACES}]*")
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
_CHUNK_CHARS = 1 << 20
MAX_ROW_BYTES = 64 * 2**20
"""A longer row is a fault: read to its end, one line that never ends would fill the memory."""
_LONGEST_SHORT_TOKEN = 64  # a literal, number or escape cut by the end of the window is shorter than this


class RawRow(NamedTuple):
    """One parsed row, or why it could not be parsed."""

    line: int
    value: object
    fault: str | None = None
    nth: int = 1
    """Which of the elements that start on this line it is: a list is often dumped on one line."""

    @property
    def place(self) -> str:
        """`line`, or `line#nth` for a further element on the line: every row of a file has its own.

        >>> RawRow(7, {}).place, RawRow(7, {}, nth=3).place
        ('7', '7#3')
        """
        return f"{self.line}#{self.nth}" if self.nth > 1 else str(self.line)


class StrictDecoder:
    """Decodes JSON values; what json.loads takes in silence is kept in `faults` until `decode` returns them.

    >>> StrictDecoder().decode('{"a": 1, "a": 2}')
    ({'a': 2}, "key 'a' appears twice; keep one")
    """

    def __init__(self) -> None:
        self._faults: list[str] = []
        self._json = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float
        )

    def decode(self, text: str) -> tuple[object, str | None]:
        """(value, fault) of a whole text; json.JSONDecodeError where it is no JSON."""
        start = len(text) - len(text.lstrip(_SPACES))
        value, end, fault = self.decode_at(text, start)
        if end < len(text.rstrip(_SPACES)):
            raise json.JSONDecodeError("text after the value", text, end)
        return value, fault

    def decode_at(self, text: str, start: int) -> tuple[object, int, str | None]:
        """(value, end, fault) of the value that starts at `start`."""
        self._faults.clear()
        try:
            value, end = self._json.raw_decode(text, start)
        except RecursionError:
            raise json.JSONDecodeError("nested too deeply", text, start) from None
        except json.JSONDecodeError:
            raise
        except ValueError as error:  # an integer of more digits than Python reads
            raise json.JSONDecodeError(str(error).split(";")[0], text, start) from None
        if text.find("\\u", start, end) >= 0 and _HALF_PAIR.search(text, start, end) and not _encodable(value):
            self._faults.append("half of a surrogate pair (\\ud800 to \\udfff); write the whole character")
        return value, end, self._faults[0] if self._faults else None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(pairs)
        if len(keys) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            self._faults.append(f"key {shown(twice)} appears twice; keep one")
        return keys

    def _constant(self, name: str) -> None:
        self._faults.append(f"{name} is no JSON value; write a number or null")

    def _float(self, digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            self._faults.append(f"number {shown(digits)} is beyond the range of a float")
        return value


def read_jsonl(path: str, keep: Container[int] | None = None) -> Iterator[RawRow]:
    """The rows of a `.jsonl` file; with `keep`, only those of these indices. Blank lines are no rows.

    A line that is no JSON is a fault of that row; what concerns the whole file is a DataError.
    """
    decoder = StrictDecoder()
    index = -1
    with open(path, "rb") as file:
        for line, raw in enumerate(_lines(file), 1):
            if line == 1:
                _refuse_bom(raw, path)
            if raw.isspace():
                continue
            index += 1
            if index == 0 and raw.lstrip().startswith(b"["):
                raise DataError(f"{path}:{line}: a JSON list, not one object a line; name the file .json")
            if keep is None or index in keep:
                yield _parsed_line(decoder, line, raw)


def count_jsonl(path: str) -> int:
    """Rows in a `.jsonl` file, without parsing them."""
    with open(path, "rb") as file:
        return sum(not raw.isspace() for raw in _lines(file))


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines; of one beyond the limit the first bytes, one more than the limit."""
    while raw := file.readline(MAX_ROW_BYTES + 1):
        yield raw
        while len(raw) > MAX_ROW_BYTES and not raw.endswith(b"\n"):
            raw = file.readline(MAX_ROW_BYTES + 1)


def _parsed_line(decoder: StrictDecoder, line: int, raw: bytes) -> RawRow:
    if len(raw) > MAX_ROW_BYTES:
        return RawRow(line, None, _too_long())
    try:
        text = raw.decode("utf-8").rstrip(_SPACES)
        value, fault = decoder.decode(text)
    except UnicodeDecodeError as error:
        return RawRow(line, None, _not_utf8(error))
    except json.JSONDecodeError as error:
        return RawRow(line, None, f"not JSON: {error.msg} at column {error.pos + 1}: {shown(text[error.pos :], 40)}")
    return RawRow(line, value, fault)


def read_json(path: str, keep: Container[int] | None = None, chunk_chars: int = _CHUNK_CHARS) -> Iterator[RawRow]:
    """The elements of a `.json` file that holds one list, without holding the whole file.

    Where the list itself is broken nothing after that can be read: DataError.
    """
    with _Window(path, chunk_chars) as window:
        first = window.next_char()
        if first != "[":
            fix = "; if it has one object a line, name it .jsonl" if first == "{" else ""
            raise window.error(f"expected a list of objects, found {shown(first) if first else 'nothing'}{fix}")
        window.step()
        separator = window.next_char()
        if separator == "]":
            window.step()
        index = 0
        while separator != "]":
            row = window.element()
            if keep is None or index in keep:
                yield row
            index += 1
            separator = window.next_char()
            if separator not in (",", "]"):
                raise window.error(f"expected ',' or ']' after an object, found {window.ahead()}")
            window.step()
        if window.next_char():
            raise window.error(f"text after the end of the list: {window.ahead()}")


class _Window:
    """A part of a file's text that moves forward and knows its line number."""

    def __init__(self, path: str, chunk_chars: int):
        self._path = path
        self._file = open(path, "rb")  # noqa: SIM115 -- closed by __exit__
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._json = StrictDecoder()
        self._chunk_chars = chunk_chars
        self._text = ""
        self._at = 0
        self._line = 1
        self._nth, self._line_of_nth = 0, 0
        self._ended = False

    def __enter__(self) -> "_Window":
        _refuse_bom(self._file.peek(4), self._path)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def error(self, problem: str, ahead: int = 0) -> DataError:
        line = self._line + self._text.count("\n", self._at, self._at + ahead)
        return DataError(f"{self._path}:{line}: {problem}")

    def ahead(self) -> str:
        return shown(self._text[self._at : self._at + 40]) if self._at < len(self._text) else "the end of the file"

    def step(self, end: int | None = None) -> None:
        """Past one character, or up to `end`."""
        end = self._at + 1 if end is None else end
        self._line += self._text.count("\n", self._at, end)
        self._at = end

    def next_char(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            self.step(_SPACE.match(self._text, self._at).end())  # type: ignore[union-attr]
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._grow()

    def element(self) -> RawRow:
        self.next_char()
        line = self._line
        self._nth = self._nth + 1 if line == self._line_of_nth else 1
        self._line_of_nth = line
        while True:
            try:
                value, end, fault = self._json.decode_at(self._text, self._at)
            except json.JSONDecodeError as error:
                # the end of the window, and no mistake in the file, can be what stopped the decoder
                near_end = len(self._text) - error.pos <= _LONGEST_SHORT_TOKEN
                if self._ended or not (near_end or error.msg.startswith("Unterminated string")):
                    found = shown(self._text[error.pos : error.pos + 40]) if error.pos < len(self._text) else "the end"
                    raise self.error(f"not JSON: {error.msg}, at {found}", error.pos - self._at) from None
            else:
                if end + 3 <= len(self._text) or self._ended:  # else a number could go on, as 1 does in 1e+5
                    break
            if len(self._text) - self._at > MAX_ROW_BYTES:
                raise self.error(_too_long())
            self._grow()
        if end - self._at > MAX_ROW_BYTES:
            value, fault = None, _too_long()
        self.step(end)
        return RawRow(line, value, fault, self._nth)

    def _grow(self) -> None:
        """Drops what was read and at least doubles what is ahead: reading stays linear in the file's size."""
        data = self._file.read(max(self._chunk_chars, len(self._text) - self._at))
        self._ended = not data
        try:
            more = self._utf8.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            lines = self._text.count("\n", self._at) + error.object[: error.start].count(b"\n")
            raise DataError(f"{self._path}:{self._line + lines}: {_not_utf8(error)}") from None
        self._text = self._text[self._at :] + more
        self._at = 0


def _refuse_bom(start: bytes, path: str) -> None:
    for name, bom in (("UTF-8", codecs.BOM_UTF8), ("UTF-16", codecs.BOM_UTF16_LE), ("UTF-16", codecs.BOM_UTF16_BE)):
        if start.startswith(bom):
            raise DataError(f"{path}:1: starts with a {name} byte order mark; save it as UTF-8 without one")


def _too_long() -> str:
    return f"a row of more than {MAX_ROW_BYTES:,} bytes; split it, or keep what is long in files of its own"


def _not_utf8(error: UnicodeDecodeError) -> str:
    found = bytes(error.object[max(0, error.start - 16) : error.start + 1])
    return f"not UTF-8 from the last byte of {found!r} on; save the file as UTF-8"


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
