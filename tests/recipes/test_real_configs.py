"""The configs for large models, with the tiny policy in the model's place: each takes a step on the CPU.

What the place of the real model and machine forces is in SMALL; all else is the config's own.
"""

import json
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel

from omnirl_core.models import base_model, vision_tower
from omnirl_core.rewards import load_rewards
from omnirl_core.shapes import write_dataset
from omnirl_core.yaml_loader import read_config
from recipes.grpo import main

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(ROOT.glob("recipes/*/qwen2_5_vl_*.yaml"))
SMALL = [
    "--model_name_or_path", "tiny_policy", "--use_cpu", "true", "--max_steps", "1", "--max_completion_length", "8",
    "--gradient_accumulation_steps", "1", "--eval_rows", "2", "--save_strategy", "no",
]  # fmt: skip


def test_there_are_four_for_each_recipe():
    assert len(CONFIGS) == 4 * 5


# all four ways of the mixed recipe, and of each other one the one with most settings
OFTEN = {path for path in CONFIGS if path.parent.name == "mixed" or path.stem.endswith("qlora")}
STEPS = [pytest.param(path, marks=[] if path in OFTEN else pytest.mark.repeat) for path in CONFIGS]


@pytest.mark.slow
@pytest.mark.parametrize("path", STEPS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_step(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    # bitsandbytes 0.50 packs weights for AVX512 by rows of whole blocks of 64, and 352 of the tiny policy is none
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    data = tmp_path / "data"
    rows = str(write_dataset(data, path.parent.name, 7, 0))
    known = {task for reward in load_rewards(read_config(path)["rewards"]) for task in reward.tasks or ()}
    drawn = json.loads(Path(rows).read_text())
    # rewards that route by task know none of some drawn tasks: these rows are judged as rows without one
    named = [{key: row[key] for key in row if key != "task" or row[key] in known or not known} for row in drawn]
    Path(rows).write_text(json.dumps(named))
    own = ["--dataset_name", rows, "--eval_dataset_name", rows, "--image_root", str(data)]
    trainer = main(["--config", str(path), *own, "--output_dir", str(tmp_path / "run"), *SMALL]).trainer
    assert trainer.state.global_step == 1
    model, tower = trainer.model, vision_tower(trainer.model)
    dtypes = {parameter.dtype for parameter in tower.parameters()}
    assert dtypes == {torch.bfloat16}
    if path.stem.endswith("lora"):
        assert isinstance(model, PeftModel)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained
        assert all("lora" in name and "visual" not in name for name in trained)
        layers = [m for m in base_model(model).modules() if isinstance(m, Linear4bit)]
        assert bool(layers) == path.stem.endswith("qlora")
        assert not [m for m in tower.modules() if isinstance(m, Linear4bit)]
    else:
        assert all(parameter.requires_grad for parameter in model.parameters())
    if path.parent.name == "rec":
        assert trainer.args.num_generations == 8
        assert trainer.args.beta == 0.04
