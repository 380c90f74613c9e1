"""Every example of docs/data.md is read as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from omnirl_core.data import TEMPLATES, load_dataset, load_records, modality

DOCUMENT = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


@pytest.fixture
def examples(tmp_path) -> Path:
    (tmp_path / "img").mkdir()
    for name in ("1.png", "2.png"):
        Image.fromarray(np.full((640, 427, 3), 200, np.uint8)).save(tmp_path / "img" / name)
    for name, text in re.findall(r"^`(\S+)`\n```\w+\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_the_formats(examples):
    train = load_records(examples / "train.jsonl")
    assert [modality(record) for record in train] == ["text", "image", "multi-image"]
    assert [record.task for record in train] == [None, None, "compare"]
    (gui,) = load_records(examples / "gui.jsonl")
    assert (gui.task, gui.solution) == ("all_match", "No Response")
    (rec,) = load_records(examples / "rec.json")
    assert rec.solution == [103.93, 299.99, 238.15, 477.41]
    mixed = load_records(examples / "mix.yaml")
    assert [record.task for record in mixed] == [None, None, "compare", "all_match", "rec"]


def test_other_names(examples):
    assert [(row.problem, row.solution, len(row.images)) for row in load_records(examples / "vqa.yaml")] == [
        ("What colour is the circle?", "red", 1), ("How many are there?", "2", 0),
    ]  # fmt: skip


def test_the_templates(examples):
    settings = yaml.safe_load((examples / "recipe.yaml").read_text())
    for row in load_dataset(examples / "mix.yaml", **settings):
        assert row["prompt"][0]["content"][0]["text"] == "You are a careful observer."
    reported = dict(re.findall(r"^\| `(\w+)`.*?\| `(.*)` \|$", DOCUMENT, re.MULTILINE))
    assert reported["plain"] == TEMPLATES["plain"]
    assert reported["rec"] == TEMPLATES["rec"]
    assert reported["r1"] == TEMPLATES["r1"]


def test_the_python_block_runs(examples, monkeypatch):
    monkeypatch.chdir(examples)
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    names: dict = {}
    exec(block, names)
    assert len(names["records"]) == len(names["rows"]) == 3
    assert names["images"] == []
