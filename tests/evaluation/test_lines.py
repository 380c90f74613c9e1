"""A run's files are read as far as they are whole."""

import json
import logging
import os

import pytest

from omnirl_tools.evaluation.lines import iter_lines, line_at, read_lines, write_lines

LINES = [{"step": 1, "text": "a\nb"}, {"step": 2, "text": "é 🙂 \u2028"}, {"step": 3, "text": "x" * 50}]


def test_what_is_written_is_read(tmp_path):
    path = write_lines(tmp_path / "new" / "lines.jsonl", LINES)
    assert read_lines(path) == LINES
    assert os.listdir(path.parent) == ["lines.jsonl"]  # no half-written file beside it


def test_cut_at_every_byte(tmp_path):
    path = write_lines(tmp_path / "lines.jsonl", LINES)
    whole = path.read_bytes()
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert read_lines(path) == LINES[: sum(end <= cut for end in ends)], cut


def test_torn_line_inside_is_left_out_by_name_and_at_the_end_in_silence(tmp_path, caplog):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "te{"step": 3}\n\n[4]\n{"step": 5}\n{"st')
    with caplog.at_level(logging.WARNING):
        assert read_lines(path) == [{"step": 1}, {"step": 5}]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}:2: not a JSON object, left out",
        f"{path}:4: not a JSON object, left out",
    ]


def test_a_file_of_another_kind_is_read_in_silence(tmp_path, caplog):
    (tmp_path / "config.yaml").write_text("a: 1\nb: 2\nc: 3\n")
    assert read_lines(tmp_path / "config.yaml") == []
    assert not caplog.records


def test_no_file_and_empty_file(tmp_path):
    assert read_lines(tmp_path / "none.jsonl") == []
    (tmp_path / "empty.jsonl").touch()
    assert read_lines(tmp_path / "empty.jsonl") == []


def test_lines_by_their_offsets(tmp_path):
    path = write_lines(tmp_path / "lines.jsonl", LINES)
    offsets = [offset for offset, _ in iter_lines(path)]
    assert list(line_at(path, [offsets[2], offsets[0]])) == [LINES[2], LINES[0]]


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    path = write_lines(tmp_path / "lines.jsonl", [{"kl": float("nan"), "deep": [{"x": float("-inf")}], "ok": 1.5}])
    strict = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert strict == {"kl": None, "deep": [{"x": None}], "ok": 1.5}


def test_writing_fails_whole(tmp_path):
    path = write_lines(tmp_path / "lines.jsonl", LINES)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_lines(path, [{"step": 1}, {"step": object()}])
    assert read_lines(path) == LINES
