"""The reader of JSON lists and JSON lines, against `json.loads` and counted lines."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnirl_core.data.json_reader import count_jsonl, read_json, read_jsonl
from omnirl_core.data.record import DataError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
SPACES = st.text(alphabet=" \t\n\r", max_size=80)


def same(a, b):
    """Equal in type as well: 1, 1.0 and True differ."""
    return json.dumps(a) == json.dumps(b)


@given(
    rows=st.lists(st.tuples(SPACES, VALUES, SPACES, st.sampled_from([None, 1, "\t"]), st.booleans())),
    before=SPACES,
    after=SPACES,
    chunk_chars=st.integers(1, 200),
)
def test_a_list_reads_like_json_loads_with_the_line_of_each_element(
    tmp_path_factory, rows, before, after, chunk_chars
):
    text, lines = before + "[", []
    for i, (left, value, right, indent, ascii_only) in enumerate(rows):
        text += "," * bool(i) + left
        lines.append(text.count("\n") + 1)
        text += json.dumps(value, indent=indent, ensure_ascii=ascii_only) + right
    text += "]" + after
    file = tmp_path_factory.getbasetemp() / "list.json"
    file.write_bytes(text.encode())
    read = list(read_json(str(file), chunk_chars=chunk_chars))
    expected = json.loads(text)
    assert same([row.value for row in read], expected)
    assert [row.line for row in read] == lines


@given(st.lists(VALUES.filter(lambda value: not isinstance(value, list)), max_size=6), st.booleans())
def test_lines_read_like_json_loads_and_blank_lines_count(tmp_path_factory, values, windows):
    end = "\r\n" if windows else "\n"
    file = tmp_path_factory.getbasetemp() / "lines.jsonl"
    file.write_bytes("".join(f"{end} {json.dumps(value)}{end}" for value in values).encode())
    read = list(read_jsonl(str(file)))
    assert same([row.value for row in read], values)
    assert [row.line for row in read] == [2 * i + 2 for i in range(len(values))]
    assert count_jsonl(str(file)) == len(values)


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_only_the_kept_indices_are_read(tmp_path, read):
    file = tmp_path / "rows"
    lines = [json.dumps({"n": n}) for n in range(10)]
    file.write_text("\n".join(lines) if read is read_jsonl else "[" + ",\n".join(lines) + "]")
    rows = list(read(str(file), keep={2, 7}))
    assert [(row.line, row.value["n"]) for row in rows] == [(3, 2), (8, 7)]


FAULTS = [
    ('{"a": 1, "a": 2}', "key 'a' appears twice"),
    ('{"b": [{"a": 1, "c": 2, "a": 1}]}', "key 'a' appears twice"),
    ('{"a": NaN}', "NaN is no JSON value"),
    ('{"a": [-Infinity]}', "-Infinity is no JSON value"),
    ('{"a": 1e999}', "number '1e999' is beyond the range"),
    ('{"a": "\\ud800"}', "half of a surrogate pair"),
    ('{"a": "\\uDC00 x"}', "half of a surrogate pair"),
]


@pytest.mark.parametrize(("row", "fault"), FAULTS)
@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_what_json_loads_lets_pass_is_a_fault_of_that_row_only(tmp_path, row, fault, kind):
    file = tmp_path / "rows"
    lines = ['{"ok": 1}', row, '{"ok": "\\ud83d\\ude00"}']
    file.write_text("[\n" + ",\n".join(lines) + "]" if kind == "json" else "\n" + "\n".join(lines))
    good, bad, last = (read_json if kind == "json" else read_jsonl)(str(file))
    assert fault in bad.fault
    assert bad.line == 3
    assert (good.fault, last.fault, last.value) == (None, None, {"ok": "\U0001f600"})


BROKEN_LISTS = [
    (b"", 1, "expected a list of objects, found nothing"),
    (b" \n ", 2, "expected a list of objects, found nothing"),
    (b'{"a": 1}\n{"a": 2}', 1, "if it has one object a line, name it .jsonl"),
    (b'"text"', 1, "expected a list of objects"),
    (b'[{"a": 1},\n]', 2, "Expecting value"),
    (b'[{"a": 1}\n{"a": 2}]', 2, "expected ',' or ']'"),
    (b'[{"a": 1},\n {"a": 2}', 2, "expected ',' or ']' after an object, found the end of the file"),
    (b'[{"a": 1},\n\n {"a" 2}]', 3, "Expecting ':' delimiter"),
    (b'[{"a": 1},\n {"a":\n\n 2,}]', 4, "not JSON"),
    (b'[{"a": 1},\n {"a": "never closed}]', 2, "Unterminated string"),
    (b'[{"a": 1},\n {"a": "tab\there"}]', 2, "Invalid control character"),
    (b'[{"a": tru}]', 1, "Expecting value"),
    (b"[1]\n\n x", 3, "text after the end of the list: 'x'"),
    (b'[{"a": 1},\n{"a": "caf\xe9"}]', 2, "\\xe9' on; save the file as UTF-8"),
    (b'\xef\xbb\xbf[{"a": 1}]', 1, "UTF-8 byte order mark"),
    ('[{"a": 1}]'.encode("utf-16"), 1, "UTF-16 byte order mark"),
    (b"[" + b"[" * 100_000, 1, "nested too deeply"),
    (b"[\n" + b"1" * 5000 + b"]", 2, "Exceeds the limit"),
]


@pytest.mark.parametrize(("data", "line", "problem"), BROKEN_LISTS)
@pytest.mark.parametrize("chunk_chars", [1, 7, 1 << 20])
def test_a_broken_list_is_named_by_line(tmp_path, data, line, problem, chunk_chars):
    file = tmp_path / "rows.json"
    file.write_bytes(data)
    with pytest.raises(DataError) as error:
        list(read_json(str(file), chunk_chars=chunk_chars))
    assert str(error.value).startswith(f"{file}:{line}: ")
    assert problem in str(error.value)


BROKEN_LINES = [
    (b'{"a": 1', "not JSON: Expecting ',' delimiter at column 8"),
    (b'{"a": 1} {"a": 2}', "not JSON: text after the value at column 9"),
    (b"{'a': 1}", "not JSON: Expecting property name"),
    (b"a", "not JSON: Expecting value at column 1: 'a'"),
    (b'{"a": "caf\xe9"}', "not UTF-8"),
    (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
    (b'{"a": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
    ("\u3000{}".encode(), "not JSON: Expecting value"),
]


@pytest.mark.parametrize(("data", "problem"), BROKEN_LINES)
def test_a_broken_line_is_a_fault_and_reading_goes_on(tmp_path, data, problem):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 0}\n' + data + b'\n{"a": 2}\n')
    first, bad, last = read_jsonl(str(file))
    assert (first.value, last.value, last.line) == ({"a": 0}, {"a": 2}, 3)
    assert problem in bad.fault
    assert bad.line == 2


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'[{"a": 1}]', "a JSON list, not one object a line; name the file .json"),
        (b'\xef\xbb\xbf{"a": 1}', "UTF-8 byte order mark"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16 byte order mark"),
    ],
)
def test_a_file_of_another_kind_is_refused_whole(tmp_path, data, problem):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(data)
    with pytest.raises(DataError, match=problem):
        list(read_jsonl(str(file)))


def test_a_line_separator_of_unicode_is_no_line_end(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": "x\u2028y\x85z"}\n{"a": 1}', encoding="utf-8")
    assert [row.line for row in read_jsonl(str(file))] == [1, 2]


def test_a_long_list_is_never_held_whole(tmp_path):
    file = tmp_path / "rows.json"
    row = json.dumps({"problem": "x" * 200})
    file.write_text("[" + ",\n".join([row] * 20_000) + "]")  # 4 MB
    tracemalloc.start()
    lines = sum(1 for _ in read_json(str(file), chunk_chars=1 << 16))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert lines == 20_000
    assert peak < 2**20


def test_reading_is_linear_in_the_length_of_one_element(tmp_path, monkeypatch):
    """An element of many windows is decoded anew only each time the window has doubled."""
    from omnirl_core.data.json_reader import StrictDecoder

    file = tmp_path / "rows.json"
    file.write_text(json.dumps([["x" * 100] * 20_000]))  # one element, 2 MB
    decoded = []
    decode_at = StrictDecoder.decode_at
    monkeypatch.setattr(
        StrictDecoder,
        "decode_at",
        lambda self, text, at: (decoded.append(len(text)), decode_at(self, text, at))[1],
    )
    (row,) = read_json(str(file), chunk_chars=1000)
    assert len(row.value) == 20_000
    assert sum(decoded) < 4 * file.stat().st_size
