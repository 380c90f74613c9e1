"""`omnirl suggest-rewards`: the judges of data sets of known kind, and what it says where nothing tells.

known_sets.jsonl was written from what public sets look like, before the detector; more_known_sets.jsonl was drawn from
other templates after it (it was right on 19 of those 20 before they were looked at).
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from omnirl_core.data import Record, load_records
from omnirl_core.rewards import load_rewards
from omnirl_core.rewards.load import Sample, coverage_error
from omnirl_tools.cli import main as omnirl
from omnirl_tools.suggest_rewards import suggest


class Known(NamedTuple):
    """A small data set in the shape of a public one, and what is to be suggested for it."""

    name: str
    right: Any
    """The sets of judges that are right, as lists; of each task where rows name some."""
    columns: dict[str, str]
    has_image: bool
    says: str
    """What `unclear` has to say of it; "" where all is clear."""
    rows: list[dict[str, Any]]


def sets_of(file: str) -> list[Known]:
    lines = (Path(__file__).parent / file).read_text(encoding="utf-8").splitlines()
    return [Known(**json.loads(line)) for line in lines]


KNOWN = [*sets_of("known_sets.jsonl"), *sets_of("more_known_sets.jsonl")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("known")
    Image.new("RGB", (2000, 2000)).save(folder / "1.png")
    return folder


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_a_known_kind_gets_its_judges(known, folder):
    """In a file that the run's loader takes and whose rewards judge every sample."""
    image = {"image": "1.png"} if known.has_image else {}
    (folder / "rows.jsonl").write_text("".join(json.dumps(row | image) + "\n" for row in known.rows))
    records = load_records(folder / "rows.jsonl", columns=known.columns)
    found = suggest(records, space="pixels")
    right = known.right if isinstance(known.right, dict) else {None: known.right}
    assert {task: sorted(scorers) in right.get(task, []) for task, scorers in found.judges.items()} == dict.fromkeys(
        right, True
    ), found
    (folder / "rewards.yaml").write_text(found.yaml_text, encoding="utf-8")
    rewards = load_rewards(folder / "rewards.yaml")
    assert all(text in found.yaml_text for text in found.unclear)
    assert any(known.says in text for text in found.unclear) == bool(known.says)
    if not known.says:
        samples = [
            Sample(record.source, record.task, record.solution, record.extra.get("options")) for record in records
        ]
        assert found.unclear == []
        assert coverage_error(samples, rewards) is None


def test_there_are_forty():
    assert len({known.name for known in KNOWN}) == 40


def said(pairs, space="pixels", **kept):
    found = suggest([Record(problem, solution, **kept) for problem, solution in pairs], space)
    return {task: set(scorers) for task, scorers in found.judges.items()}, " | ".join(found.unclear)


OPEN = {
    "two numbers": ([("Answer.", [3, 40])] * 4, {"point_distance"}, "may be a point, a span of time"),
    "lists": ([("Answer.", ["a", "b"]), ("Answer.", ["c", "d"])], {"set_f1"}, "may be labels"),
    "labels or others": ([("Answer.", ["a", "b"]), ("Answer.", ["b", "a"])], {"set_f1"}, "the same items recur"),
    "a box": ([("the red car", [1, 2, 30, 40])] * 4, {"box_iou"}, "whether a box or a click"),
    "sizes": ([("the bbox of the car", [200, 20, 30, 40])], {"box_iou"}, "box: xywh"),
    "outlines": ([("the leaf", [[1, 2], [9, 2], [9, 9]])] * 4, {"mask_iou"}, "outlines or points"),
    "letters": ([("Answer.", "A"), ("Answer.", "C")], {"choice"}, "nor a column `options`"),
    "asserts": ([("Write f.", "assert f(1) == 2")] * 3, {"code"}, "cannot read asserts"),
    "wrapped": ([("Read.", {"gt_parse": {"total": "3"}, "meta": {}})] * 3, {"json_fields"}, "ground_truth.gt_parse"),
    "holes": ([("Why?", "a red car")] * 3 + [("Why?", None)], {"token_f1"}, "1 of 4 samples have no reference"),
    "unreadable": ([("Is it?", "yes")] * 40 + [("Is it?", "perhaps")], {"yes_no"}, "yes_no: 1 of 41 references"),
}  # fmt: skip


@pytest.mark.parametrize("name", OPEN)
def test_what_the_samples_do_not_tell_is_said(name):
    pairs, judges, text = OPEN[name]
    judged, unclear = said(pairs)
    assert judged == {None: judges}
    assert text in unclear


def test_a_space_that_is_not_known_is_said_and_one_that_is_given_is_written():
    pairs = [("Give the bounding box of the dog.", [1, 2, 30, 40])]
    assert "the space of the policy's answers is not known" in said(pairs, space=None)[1]
    found = suggest([Record(*pairs[0])], space="0-1000")
    assert "space: 0-1000" in found.yaml_text
    assert not any("not known" in text for text in found.unclear)


def test_a_mix_without_tasks_gets_tasks_to_name():
    pairs = [("Where?", [1, 2, 30, 40]), ("What?", "a red car"), ("Write it as JSON.", {"total": 3})] * 3
    judged, unclear = said(pairs)
    assert judged == {"boxes": {"box_iou"}, "text": {"token_f1"}, "json": {"json_fields"}}
    assert "give each sample its `task`: 33% boxes, 33% json, 33% text" in unclear


def test_two_settings_of_one_judge_stand_beside_each_other(tmp_path):
    prose = "A small boy in a red shirt kicks a ball over the fence of his school."
    records = [
        Record("Describe the image.", prose, images=("1.png",), task="caption"),
        Record("Why did the boy do it?", prose, task="free"),
        Record("What did she say?", prose, task="other"),
    ]
    found = suggest(records, "pixels")
    (tmp_path / "rewards.yaml").write_text(found.yaml_text)
    rewards = {reward.name: reward for reward in load_rewards(tmp_path / "rewards.yaml")}
    assert rewards["overlap_caption"].tasks == ("caption",)
    assert rewards["overlap_free"].tasks == ("free", "other")
    assert rewards["overlap_free"].scorer is rewards["overlap_caption"].scorer
    assert rewards["repetition"].tasks == ("caption", "free", "other")


def test_nothing_to_judge_by():
    assert suggest([Record("?", None)]).yaml_text == ""
    with pytest.raises(ValueError, match="no samples"):
        suggest([])


def test_the_command_writes_a_file_that_check_rewards_runs_on(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        row
        for n in range(4)
        for row in (
            {
                "question": f"Describe day {n}.",
                "answer": f"a red kite flies over hill {n} of the old town",
                "task": "text",
            },
            {"question": "List all animals.", "answer": ["dog", f"cat {n}"], "task": "labels"},
            {"question": "Read it as JSON.", "answer": {"total": n, "items": [{"n": 1}]}, "task": "json"},
        )
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapping = "{problem: question, solution: answer}"
    assert omnirl(["suggest-rewards", "train.jsonl"]) == 2
    assert "map it: columns: {problem: question, solution: answer}" in capsys.readouterr().err
    assert omnirl(["suggest-rewards", "train.jsonl", "--columns", mapping]) == 0
    printed = capsys.readouterr().out
    assert "labels: set_f1" in printed
    assert "written: rewards.yaml" in printed
    written = (tmp_path / "rewards.yaml").read_text()
    assert "# 100% of 4 references are JSON objects" in written
    assert omnirl(["suggest-rewards", "train.jsonl", "--columns", mapping]) == 2
    assert "rewards.yaml: there already" in capsys.readouterr().err
    assert (tmp_path / "rewards.yaml").read_text() == written

    keys = {
        "output_dir": "run", "dataset_name": "train.jsonl", "model_name_or_path": "tiny_policy", "columns": mapping,
        "rewards": "rewards.yaml",
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
    assert omnirl(["check-rewards", "recipe.yaml", "--workers", "1"]) == 0
    assert "12 rows, 0 whose own reference cannot earn full marks" in capsys.readouterr().out


def test_the_command_says_what_is_unclear_and_what_cannot_be(tmp_path, capsys):
    file, output = tmp_path / "rows.jsonl", tmp_path / "new" / "rewards.yaml"
    file.write_text(json.dumps({"problem": "Answer.", "solution": [3, 40]}) + "\n")
    assert omnirl(["suggest-rewards", str(file), "--output", str(output), "--space", "pixels"]) == 1
    assert "unclear: two numbers may be a point" in capsys.readouterr().out
    assert "# unclear: two numbers may be a point" in output.read_text()
    file.write_text(json.dumps({"problem": "Answer.", "solution": None}) + "\n")
    other = str(tmp_path / "other.yaml")
    assert omnirl(["suggest-rewards", str(file), "--output", other]) == 2
    assert "no reward fits these samples: 1 of 1 samples have no reference" in capsys.readouterr().err
    assert omnirl(["suggest-rewards", str(file), "--output", "rewards.txt"]) == 2
    assert omnirl(["suggest-rewards", str(tmp_path / "none.jsonl"), "--output", other]) == 2
