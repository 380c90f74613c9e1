"""Columns under our names: values made of others, by pattern, by index, as boxes; names of hub data sets."""

import json

import datasets
import pytest

from omnirl_core.data import DataError, load_records
from omnirl_core.data.columns import checked_columns, renamed
from omnirl_core.data.sources import find_sources

MADE = {
    "last match": ({"column": "a", "pattern": r"#### (.+)"}, "1 #### 2\n#### 3 ", "3"),
    "no group": ({"column": "a", "pattern": r"\d+"}, "4 or 42", "42"),
    "each of a list": ({"column": "a", "pattern": r"#(\d)"}, ["#1", "#2"], ["1", "2"]),
    "from 0": ({"column": "a", "index_from": 0}, 2, "C"),
    "from 1, as text": ({"column": "a", "index_from": 1}, " 2", "B"),
    "pattern, then index": ({"column": "a", "pattern": r"option (\d)", "index_from": 1}, "option 4", "D"),
    "box": ({"column": "a", "box": "xywh"}, [10, 20, 30.5, 40], [10, 20, 40.5, 60]),
    "boxes": ({"column": "a", "box": "xywh"}, [[0, 0, 2, 3], [1, 1, 1, 1]], [[0, 0, 2, 3], [1, 1, 2, 2]]),
    "null": ({"column": "a", "index_from": 0}, None, None),
    "inside": ({"column": "a.b.1", "pattern": r"\d"}, {"b": ["x1", "x2"]}, "2"),
}


@pytest.mark.parametrize("name", MADE)
def test_a_value_is_made(name):
    how, value, wanted = MADE[name]
    assert renamed({"q": "Which?", "a": value}, {"problem": "q", "solution": how})["solution"] == wanted


def test_a_text_of_several_columns_leaves_out_nulls_and_keeps_other_columns():
    row = {"hint": None, "question": "Which {x}?", "answers": ["B"], "task": "closed"}
    columns = {"problem": {"text": "{hint}\n{question} ({answers.0})"}, "solution": "answers", "kind": "task"}
    assert renamed(row, columns) == {"problem": "Which {x}? (B)", "solution": ["B"], "kind": "closed"}
    assert renamed({"a": 1}, {"problem": {"text": "What is shown?"}})["problem"] == "What is shown?"


REFUSED_VALUES = {
    "no match": ({"column": "a", "pattern": "#### (.+)"}, "42", r"pattern '#### \(.\+\)' does not occur in '42'"),
    "no text": ({"column": "a", "pattern": "x"}, 42, "pattern 'x' does not occur in 42"),
    "no index": ({"column": "a", "index_from": 0}, "B", "'B' is not the number of an option from 0 on"),
    "below the first": ({"column": "a", "index_from": 1}, 0, "0 is not the number of an option from 1 on"),
    "true": ({"column": "a", "index_from": 0}, True, "True is not the number"),
    "beyond Z": ({"column": "a", "index_from": 0}, 26, "26 is not the number"),
    "three numbers": ({"column": "a", "box": "xywh"}, [1, 2, 3], r"\[1, 2, 3\] is no box of four numbers"),
    "a truth value": ({"column": "a", "box": "xywh"}, [1, 2, 3, True], r"\[1, 2, 3, True\] is no box of four numbers"),
    "no column": ({"column": "b"}, 1, "no column 'b'; there are: q, a"),
    "none in the text": ({"text": "{b}"}, 1, "no column 'b'"),
}


@pytest.mark.parametrize("name", REFUSED_VALUES)
def test_a_value_that_cannot_be_made_names_the_row(name, tmp_path):
    how, value, message = REFUSED_VALUES[name]
    (tmp_path / "a.jsonl").write_text(json.dumps({"q": "?", "a": value}))
    with pytest.raises(DataError, match=rf"a\.jsonl:1: columns: solution: {message}"):
        load_records(tmp_path / "a.jsonl", columns={"problem": "q", "solution": how})


REFUSED_MAPPINGS = {
    "unknown key": ({"column": "a", "patern": "x"}, "unknown key 'patern'; did you mean 'pattern'"),
    "no column": ({"pattern": "x"}, "needs `column`"),
    "two groups": ({"column": "a", "pattern": "(a)(b)"}, "at most one group"),
    "no expression": ({"column": "a", "pattern": "("}, "is no regular expression"),
    "a number as pattern": ({"column": "a", "pattern": 3}, "at most one group"),
    "index of a text": ({"column": "a", "index_from": "0"}, "must be the number of the first option"),
    "another box": ({"column": "a", "box": "yxyx"}, "box 'yxyx' is not a form that is converted"),
    "text and column": ({"text": "{a}", "column": "a"}, "stands alone"),
    "no text": ({"text": 3}, "stands alone"),
}


@pytest.mark.parametrize("name", REFUSED_MAPPINGS)
def test_a_mapping_that_makes_nothing_is_refused(name):
    how, message = REFUSED_MAPPINGS[name]
    with pytest.raises(ValueError, match=f"columns: solution: .*{message}"):
        checked_columns({"problem": "q", "solution": how})


@pytest.mark.parametrize(
    ("name", "config", "split"),
    [
        ("org/name", None, "train"),
        ("org/name:test", None, "test"),
        ("org/name:main:test", "main", "test"),
        ("org/name:v1.0-full:train[10:]", "v1.0-full", "train[10:]"),
        ("org/name:val[:90%]", None, "val[:90%]"),
    ],
)
def test_a_hub_name_may_say_configuration_and_split(name, config, split):
    (source,) = find_sources(name)
    assert (source.place, source.on_hub, source.config, source.split) == ("org/name", True, config, split)


@pytest.mark.parametrize("name", ["org/name:", "org/name:a:b:c", "a/b/c:train", "org/name:train[", "rows.json:train"])
def test_what_is_no_hub_name_is_a_missing_file(name):
    with pytest.raises(DataError, match="no such data file"):
        find_sources(name)


def test_a_cut_split_of_a_configuration_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "org" / "name" / "main"
    folder.mkdir(parents=True)
    datasets.Dataset.from_dict({"q": ["a", "b", "c"], "a": [0, 1, 2]}).to_parquet(folder / "test.parquet")
    where = "configs:\n- config_name: main\n  data_files: [{split: test, path: main/test.parquet}]"
    (tmp_path / "org" / "name" / "README.md").write_text(f"---\n{where}\n---\n")
    columns = {"problem": "q", "solution": {"column": "a", "index_from": 0}}
    assert [r.solution for r in load_records("org/name:main:test[1:]", columns=columns)] == ["B", "C"]
