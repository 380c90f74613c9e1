"""Written data is the original's format, reproducible, and read by the data layer as any other."""

import json

import pytest
from PIL import Image

from omnirl_core.data import load_dataset, load_records
from omnirl_core.shapes import DOCUMENTS, GROUPS, TASKS, write_dataset


def test_the_same_seed_writes_the_same_files_and_another_seed_others(tmp_path):
    first = write_dataset(tmp_path / "a", "mixed", n=21, seed=3)
    again = write_dataset(tmp_path / "b", "mixed", n=21, seed=3)
    other = write_dataset(tmp_path / "c", "mixed", n=21, seed=4)
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    image_files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.png"))
    assert image_files
    for image in image_files:
        assert (tmp_path / "a" / image).read_bytes() == (tmp_path / "b" / image).read_bytes()


@pytest.mark.parametrize("task", [*TASKS, *DOCUMENTS, *GROUPS])
def test_every_task_is_read_back(tmp_path, task):
    file = write_dataset(tmp_path, task, n=14, seed=0, split="test")
    rows = json.loads(file.read_text())
    records = load_records(file)
    dataset = load_dataset(file)
    assert len(rows) == len(records) == len(dataset) == 14
    for row, record, drawn in zip(rows, records, dataset, strict=True):
        paths = row.get("image", [])
        paths = [paths] if isinstance(paths, str) else paths
        assert (record.problem, record.solution, record.task) == (
            row["problem"],
            row["solution"],
            row["task"],
        )
        assert drawn["solution"] == row["solution"]
        assert [Image.open(path).format for path in drawn["images"]] == ["PNG"] * len(paths)
        kinds = [part["type"] for part in drawn["prompt"][-1]["content"]]
        assert kinds.count("image") == len(paths)


def test_mixed_rows_hold_no_one_and_many_images(tmp_path):
    rows = json.loads(write_dataset(tmp_path, "mixed", n=70, seed=0).read_text())
    counts = {0 if "image" not in r else 1 if isinstance(r["image"], str) else len(r["image"]) for r in rows}
    assert counts == {0, 1, 2, 3}


def test_unknown_names_are_reported(tmp_path):
    with pytest.raises(ValueError, match=r"unknown task \['colour'\]; one of color, shape"):
        write_dataset(tmp_path, "colour", n=1, seed=0)
    with pytest.raises(ValueError, match="'train' or 'test'"):
        write_dataset(tmp_path, "color", n=1, seed=0, split="dev")
