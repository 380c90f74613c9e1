"""YAML that people wrote: read safely, keys with lines, and a fault instead of a surprise."""

import datetime

import pytest

from omnirl_core.yaml_loader import YamlFault, key_lines, parse_yaml, read_value, read_yaml

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: [1, 2", 1, "not YAML: expected ',' or ']'"),
        ("a: 1\nb:\n\t- 2", 3, "not YAML: found character '\\t'"),
        ("a: \x01", None, "not YAML: unacceptable character #x0001"),
        ("a: 1\n---\nb: 2", 2, "not YAML: but found another document"),
        ("a: *gone", 1, "not YAML: found undefined alias"),
        ("? [1, 2]\n: 3", 1, "not YAML: found unhashable key"),
        ("a: !!python/object/apply:os.system ['true']", 1, "could not determine a constructor for the tag"),
        ("a: !!python/name:os.system", 1, "could not determine a constructor"),
        (LAUGHS, 1, "more than 100,000 values, aliases written out"),
        ("a: &a [*a]", 1, "nested more than 50 levels deep, or an alias that contains itself"),
        ("[" * 60 + "]" * 60, 1, "nested more than 50 levels deep"),
        ("[" * 5000, 1, "nested more than 50 levels deep"),
        ("a: !!bool maybe", None, "a value that does not fit its tag"),
        ("a: !!int x", None, "a value that does not fit its tag"),
        ("a: !!timestamp x", None, "a value that does not fit its tag"),
        ("a: 2001-99-99", None, "month must be in 1..12; put it in quotes"),
        ("a: " + "9" * 5000, None, "a value that does not fit its tag"),
        ("a: !!binary '\u00e9'", 1, "not YAML: failed to convert base64"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(text, line, problem):
    with pytest.raises(YamlFault) as error:
        parse_yaml(text)
    assert problem in error.value.problem
    assert error.value.line == line or (line == 1 and error.value.line is not None)


def test_nothing_is_run(tmp_path):
    mark = tmp_path / "ran"
    for tag in ("python/object/apply:os.mkdir", "python/object/new:os.mkdir"):
        with pytest.raises(YamlFault):
            parse_yaml(f"a: !!{tag} ['{mark}']")
    assert not mark.exists()


def test_keys_given_twice_at_any_depth_with_their_lines():
    text = parse_yaml("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\nl:\n- x: 1\n  x: 2\na: 2\n")
    assert sorted(text.given_twice) == [(5, "c"), (8, "x"), (9, "a")]
    assert key_lines(text.root) == {"a": 9, "b": 2, "l": 6}


def test_an_alias_is_looked_at_once():
    text = parse_yaml("a: &a {x: 1, x: 2}\nb: *a\nc: *a\n")
    assert text.given_twice == [(1, "x")]
    assert text.data["c"] == {"x": 2}


def test_files(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes("\ufeffa: 2001-02-03".encode())
    assert read_yaml(file).data == {"a": datetime.date(2001, 2, 3)}
    file.write_bytes(b"")
    assert read_yaml(file).data is None
    assert read_yaml(file).given_twice == []
    file.write_bytes("café".encode("latin-1"))
    with pytest.raises(YamlFault) as error:
        read_yaml(file)
    assert error.value.at("a.yaml") == "a.yaml: not UTF-8; save it as UTF-8"
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "gone.yaml")


def test_values_keep_their_types():
    assert read_value("x", "3", float) == (3.0, None)
    assert read_value("x", "3", int | None) == (3, None)
    assert read_value("x", "yes", bool) == (True, None)
    assert read_value("x", ["1", "2"], list[str] | None) == (["1", "2"], None)
    assert read_value("x", '{"a": 1}', dict | str | None) == ({"a": 1}, None)
    assert read_value("x", "file.json", dict | str | None) == ("file.json", None)
