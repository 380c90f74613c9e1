"""The configs of recipes/models, with a tiny random model of the family in the model's place: each takes a step."""

import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from omnirl_core.config import parse
from omnirl_core.models import base_model, vision_tower
from omnirl_core.shapes import write_dataset
from omnirl_core.yaml_loader import read_config
from recipes.grpo import build
from scripts.model_families import write_checkpoint

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(ROOT.glob("recipes/models/*.yaml"))
README = (ROOT / "recipes" / "models" / "README.md").read_text(encoding="utf-8")
FAMILIES = {
    "Qwen/Qwen3-VL-": "Qwen3-VL", "google/gemma-3-": "Gemma 3", "OpenGVLab/InternVL3_5-": "InternVL3.5",
    "HuggingFaceTB/SmolVLM2-": "SmolVLM",
}  # fmt: skip
"""How a model's name on the hub begins -> its family in docs/models.md."""
SMALL = [
    "--use_cpu", "true", "--max_steps", "1", "--max_completion_length", "6", "--num_generations", "2",
    "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "1", "--eval_rows", "1",
    "--save_strategy", "no", "--gradient_checkpointing", "false",
]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Folder of a family's tiny checkpoint, written once."""
    written: dict[str, str] = {}

    def of(family: str) -> str:
        if family not in written:
            written[family] = write_checkpoint(family, tmp_path_factory.mktemp("family"))
        return written[family]

    return of


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("rows")
    drawn = str(write_dataset(folder, ["color", "count"], 3, 0))
    return ["--dataset_name", drawn, "--eval_dataset_name", drawn, "--image_root", str(folder)]


ANOTHER_SIZE = ("qwen3_vl_4b", "qwen3_vl_8b", "internvl3_5_8b")


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.repeat if path.stem in ANOTHER_SIZE else []) for path in CONFIGS],
    ids=lambda path: path.stem,
)
def test_a_step(path, checkpoint, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)  # widths here are no blocks of 64
    name = read_config(path)["model_name_or_path"]
    (family,) = [family for start, family in FAMILIES.items() if name.startswith(start)]
    run = ["--config", str(path), "--model_name_or_path", checkpoint(family), "--output_dir", str(tmp_path)]
    trainer, _, _ = build(*parse([*run, *rows, *SMALL]))
    trainer.train()
    assert trainer.state.global_step == 1
    model, tower = trainer.model, vision_tower(trainer.model)
    assert isinstance(model, PeftModel)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any("language_model" in name or "text_model" in name for name in trained)
    assert all("lora" in name for name in trained)
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert {parameter.dtype for parameter in tower.parameters()} == {torch.bfloat16}
    assert any("4bit" in type(module).__name__ for module in base_model(model).modules()) == ("qlora" in head(path))


def head(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].lower()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_readme_lists_it(path):
    (line,) = [line for line in README.splitlines() if line.startswith(f"| [{path.stem}]({path.name}) |")]
    name, meant = [cell.strip() for cell in line.split("|")[2:4]]
    assert name == read_config(path)["model_name_or_path"]
    gpu = re.search(r": (q?lora) on one gpu of (\d+ gb)\.", head(path))
    assert meant.lower() == f"{gpu[1]}, {gpu[2]}"
    assert "# Not run with the real weights" in path.read_text(encoding="utf-8")


def test_all_families_have_one():
    names = [read_config(path)["model_name_or_path"] for path in CONFIGS]
    assert all(any(name.startswith(start) for name in names) for start in FAMILIES)
    assert sum(name.startswith("Qwen/Qwen3-VL-") for name in names) == 3
