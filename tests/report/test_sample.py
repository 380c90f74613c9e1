"""Which completions the report shows."""

import json
import tracemalloc
from itertools import pairwise

import pytest

from omnirl_tools.report.sample import evenly, sample_groups


def write(path, steps: int, prompts: int = 3, answers: int = 4, text: str = "x") -> None:
    with path.open("w") as file:
        for step in range(1, steps + 1):
            for prompt in range(prompts):
                for answer in range(answers):
                    line = {"step": step, "row_id": f"r:{prompt}", "completion": f"{text}{answer}"}
                    file.write(json.dumps(line) + "\n")


def test_all_are_shown_where_they_fit(tmp_path):
    write(tmp_path / "c.jsonl", steps=5)
    groups, total = sample_groups(tmp_path / "c.jsonl", 60)
    assert total == 60
    assert [group.step for group in groups] == [step for step in range(1, 6) for _ in range(3)]
    assert all([line["completion"] for line in group.lines] == ["x0", "x1", "x2", "x3"] for group in groups)


def test_whole_groups_from_first_to_last_step(tmp_path):
    write(tmp_path / "c.jsonl", steps=200)
    groups, total = sample_groups(tmp_path / "c.jsonl", 100)
    assert total == 2400
    assert len(groups) == 25
    assert all(len(group.lines) == 4 for group in groups)
    assert {line["step"] for group in groups for line in group.lines} == {group.step for group in groups}
    assert (groups[0].step, groups[-1].step) == (1, 200)


def test_training_and_evaluation_at_one_step_stay_apart(tmp_path):
    lines = [{"step": 1, "phase": phase, "row_id": "r", "completion": phase} for phase in ("train", "eval", "train")]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    groups, _ = sample_groups(tmp_path / "c.jsonl", 10)
    assert [(group.phase, len(group.lines)) for group in groups] == [("train", 2), ("eval", 1)]


def test_prompts_of_a_json_file_on_one_line_stay_apart(tmp_path):
    lines = [{"step": 1, "row_id": "a.json:1", "problem": p, "completion": "x"} for p in "aabb"]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    groups, _ = sample_groups(tmp_path / "c.jsonl", 10)
    assert [[line["problem"] for line in group.lines] for group in groups] == [["a", "a"], ["b", "b"]]


def test_lines_of_other_kinds_and_no_file(tmp_path):
    assert sample_groups(tmp_path / "none.jsonl", 10) == ([], 0)
    (tmp_path / "c.jsonl").write_text('{"step": 1}\n{"completion": "x"}\n{"step": 1, "completion": null}\n')
    assert sample_groups(tmp_path / "c.jsonl", 10) == ([], 0)


def test_memory_does_not_follow_the_log(tmp_path):
    write(tmp_path / "c.jsonl", steps=300, text="y" * 4000)  # 14 MB
    tracemalloc.start()
    sample_groups(tmp_path / "c.jsonl", 100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize("most", [1, 2, 3, 7, 49, 50, 99])
def test_evenly(most):
    found = evenly(range(50), most)
    assert len(found) == min(most, 50)
    assert found == sorted(set(found))
    assert found[-1] == 49
    if most > 1:
        gaps = {b - a for a, b in pairwise(found)}
        assert found[0] == 0
        assert max(gaps) - min(gaps) <= 1
