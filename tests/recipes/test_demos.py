"""The demos of single modalities, shortened: a few steps of each, with its own rewards and rows.

What they learn is in recipes/README.md, from whole runs; test_demo.py holds a quarter of the mixed one to learning.
"""

import json
from pathlib import Path

import pytest

from omnirl_core.shapes import GROUPS
from recipes.grpo import main

ROOT = Path(__file__).parents[2]
MODALITY = {
    "text_only": "text",
    "image_text": "image",
    "multi_image": "multi-image",
    "rec": "image",
    "documents": "image",
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", MODALITY)
def test_a_few_steps(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    shapes = json.dumps({"task": recipe, "train": 24, "test": 8, "seed": 0})
    files = ["--dataset_name", f"{tmp_path}/train.json", "--eval_dataset_name", f"{tmp_path}/test.json"]
    small = ["--max_steps", "2", "--per_device_train_batch_size", "16", "--logging_steps", "1"]
    config = ["--config", f"recipes/{recipe}/demo.yaml", "--draw_shapes", shapes, *files]
    result = main([*config, "--output_dir", str(tmp_path / "run"), *small])
    assert result.trainer.state.global_step == 2
    groups = {(change.kind, change.group) for change in result.changes}
    assert ("modality", MODALITY[recipe]) in groups
    assert {group for kind, group in groups if kind == "task"} == set(GROUPS[recipe])
    judged = {change.measure for change in result.changes}
    assert judged >= {"score", "accuracy", *(reward.name for reward in result.trainer.reward_funcs)}
    kept = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(kept["changes"]) == len(result.changes)
