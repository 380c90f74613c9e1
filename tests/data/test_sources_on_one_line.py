"""A JSON list dumped on one line still gives every row a name of its own."""

import json

import pytest

from omnirl_core.data import DataError, load_dataset, load_records


def test_rows_of_one_line_are_kept_apart(tmp_path):
    file = tmp_path / "train.json"
    file.write_text(json.dumps([{"problem": str(i), "solution": i} for i in range(5)]))
    names = [f"{file}:1", f"{file}:1#2", f"{file}:1#3", f"{file}:1#4", f"{file}:1#5"]
    assert [record.source for record in load_records(file)] == names
    assert [row["row_id"] for row in load_dataset(file)] == names


def test_a_row_keeps_its_name_when_others_are_not_drawn(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps([{"problem": str(i), "solution": i} for i in range(5)]))
    mix = tmp_path / "mix.yaml"
    mix.write_text("datasets:\n  - json_path: train.json\n    sampling_strategy: end:2\n")
    assert [record.source.split(":")[-1] for record in load_records(mix)] == ["1#4", "1#5"]


def test_a_fault_names_the_element(tmp_path):
    file = tmp_path / "train.json"
    file.write_text(
        '[{"problem": "a", "solution": 1}, {"problem": 2, "solution": 1},\n {"problem": "c", "solution": 1}]'
    )
    with pytest.raises(DataError, match=r"train.json:1#2: "):
        load_records(file)
