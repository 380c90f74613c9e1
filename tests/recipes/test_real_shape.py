"""recipes/mixed/qwen2_5_vl_3b_lora.yaml at the shape that it names, with random weights, on a CPU: one step.

On demand, `pytest -m repeat tests/recipes/test_real_shape.py`: five minutes of a core, 13 GiB of memory, 9 of disk.
"""

import json
import math
import shutil
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from recipes.grpo import main

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "recipes/mixed/qwen2_5_vl_3b_lora.yaml"
GIB = 2**30
MEMORY, DISK = 13 * GIB, 9 * GIB
"""Free, for the model, what trains and the rest of the process; for the checkpoint and the adapter's."""
SHORTENED = [
    "--use_cpu", "true", "--bf16", "false", "--max_steps", "1", "--gradient_accumulation_steps", "1",
    "--max_completion_length", "32", "--warm_start_check", "false", "--save_strategy", "no", "--report_to", "none",
    "--logging_steps", "1",
]  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """The random policy of benchmarks/grpo_step.py, 36 layers in bf16."""
    if shutil.disk_usage(tmp_path).free < DISK or psutil.virtual_memory().available < MEMORY:
        pytest.skip(f"needs {MEMORY / GIB:.0f} GiB of memory and {DISK / GIB:.0f} GiB of disk")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from grpo_step_cells import write_checkpoint

    folder = tmp_path / "policy"
    write_checkpoint(str(folder), "3b-cpu")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def samples(tmp_path):
    """One image, of 330 tokens within the recipe's max_pixels, and words: a prompt of 512 tokens."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (28 * 16, 28 * 24, 3), generator=random).byte().numpy()
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    words = " ".join(f"w{i}" for i in torch.randint(0, 4000, (183,), generator=random).tolist())
    path = tmp_path / "train.json"
    path.write_text(json.dumps([{"problem": words, "solution": "w1 w2 w3", "image": "noise.png"}]))
    return path


@pytest.fixture
def rewards(tmp_path):
    """By the completion's letters: a random policy's answers to one prompt differ in nothing else."""
    (tmp_path / "letters.py").write_text(
        "def letters(completions, **columns):\n"
        "    return [len(turns[0]['content']) % 97 / 97 for turns in completions]\n"
    )
    path = tmp_path / "rewards.yaml"
    path.write_text("rewards:\n  - {name: letters, function: letters.py:letters}\n")
    return path


@pytest.mark.repeat
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_recipe_takes_a_step_at_the_shape_of_3b(checkpoint, samples, rewards, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    run = tmp_path / "run"
    own = {
        "config": CONFIG, "dataset_name": samples, "eval_dataset_name": samples, "image_root": tmp_path,
        "model_name_or_path": checkpoint, "rewards": rewards, "output_dir": run, "eval_rows": 1, "learning_rate": 1e-3,
    }  # fmt: skip
    words = [word for name, value in own.items() for word in (f"--{name}", str(value))]
    trainer = main([*words, *SHORTENED]).trainer
    [line] = [one for one in map(json.loads, (run / "metrics.jsonl").open()) if "loss" in one]
    assert line["step"] == 1
    assert all(math.isfinite(line[name]) for name in ("loss", "grad_norm", "reward", "entropy"))
    assert line["grad_norm"] > 0
    assert line["num_tokens"] == 8 * (512 + 32)
    trained = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name and "visual" not in name for name in trained)
    moved = [bool(weight.abs().max() > 0) for name, weight in trained.items() if "lora_B" in name]
    assert len(moved) == 36 * 7
    assert all(moved), "an adapter's B begins at 0"
    _holds_the_weights_it_began_with(trainer.model, checkpoint)


def _holds_the_weights_it_began_with(model, checkpoint) -> None:
    name = "language_model.layers.35.mlp.down_proj"
    [layer] = [module for own, module in model.named_modules() if own.endswith(name)]
    for path in checkpoint.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  # it is no dict
                if key.endswith("layers.35.mlp.down_proj.weight"):
                    assert torch.equal(file.get_tensor(key), layer.base_layer.weight)
                    return
    pytest.fail("the checkpoint has no such layer")
