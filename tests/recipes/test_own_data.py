"""The samples of the README's "Your own data", as they stand, under every recipe: an accuracy reward is at work."""

import re
from pathlib import Path

import pytest
from PIL import Image

from omnirl_core.data import DataError
from omnirl_core.rewards.load import accuracy_rewards
from omnirl_tools.evaluation.lines import read_lines
from recipes.grpo import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
OWN = re.search(r"## Your own data\n\n```json\n(.*?)```", README, re.DOTALL)[1]
LARGE = ("mixed", "text_only", "image_text")  # with rewards of their own
RECIPES = [
    *sorted(ROOT.glob("recipes/*/demo.yaml")),
    *(ROOT / f"recipes/{name}/qwen2_5_vl_3b.yaml" for name in LARGE),
]
SMALL = [
    "--use_cpu", "true", "--bf16", "false", "--max_steps", "1", "--max_completion_length", "8", "--save_strategy", "no",
    "--num_generations", "2", "--per_device_train_batch_size", "6", "--gradient_accumulation_steps", "1",
    "--logging_steps", "1", "--eval_rows", "1", "--per_device_eval_batch_size", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "img").mkdir()
    for number, color in ((1, "red"), (2, "white")):
        Image.new("RGB", (56, 56), color).save(folder / "img" / f"{number}.png")
    (folder / "train.json").write_text(OWN)
    return folder


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_they_train_with_an_accuracy_reward_or_are_refused(path, data, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = str(data / "train.json")
    own = ["--dataset_name", rows, "--eval_dataset_name", rows, "--image_root", str(data)]
    argv = ["--config", str(path), *own, "--model_name_or_path", tiny_checkpoint, *SMALL]
    if path.parent.name == "rec":
        with pytest.raises(DataError, match=r"3 of 3 samples have a solution that no reward can read \(box_iou\)"):
            main([*argv, "--output_dir", str(tmp_path)])
        return
    trainer = main([*argv, "--output_dir", str(tmp_path)]).trainer
    assert trainer.state.global_step == 1
    judges = {reward.name for reward in accuracy_rewards(trainer.reward_funcs)}
    lines = read_lines(tmp_path / "completions.jsonl")
    assert {line["row_id"] for line in lines} == {f"{rows}:{number}" for number in (1, 2, 3)}
    for line in lines:
        assert [name for name in judges if line["rewards"].get(name) is not None], line
