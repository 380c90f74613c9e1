"""Every config starts what it says; the recipe's own command runs on it, and resumes on it."""

import json
from pathlib import Path

import pytest
from distributed_ranks import CONFIGS, launch_environment
from launching import launch, recipe
from safetensors.torch import load_file

STARTS = {
    "cpu": {},
    "single_gpu": {},
    "ddp": {},
    "zero2": {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "zero3": {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "ACCELERATE_DEEPSPEED_ZERO3_INIT": "true"},
    "zero3_offload": {
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu",
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu",
    },
    "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"},
    "multi_node_zero3": {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
}


def test_every_config_is_here():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(STARTS)


@pytest.mark.parametrize("name", STARTS)
def test_a_config_starts_its_engine(name, monkeypatch):
    for variable in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(variable, raising=False)
    found = launch_environment(name, 16 if name == "multi_node_zero3" else 2)
    assert STARTS[name].items() <= found.items()
    assert found.get("ACCELERATE_USE_DEEPSPEED") == ("true" if "zero" in name else None)
    assert found.get("ACCELERATE_USE_FSDP") == ("true" if name == "fsdp2" else None)
    assert found["ACCELERATE_MIXED_PRECISION"] == "no"  # the recipe's bf16 decides
    if "zero" in name:
        assert found["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] == found["ACCELERATE_GRADIENT_CLIPPING"] == "auto"


def run_file(folder: Path) -> dict:
    return json.loads((folder / "run" / "run.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(1300)
@pytest.mark.parametrize("config", ["ddp", "zero3"])
def test_six_steps_are_three_and_three_more(config, tmp_path):
    """Of a real run's sampled completions: generators, optimizer and the order of rows are where they were.

    Each generation batch is learned from twice, so that the third step stands in the middle of one.
    """
    saving = ["--save_strategy", "steps", "--save_steps", "3", "--max_steps", "6", "--num_iterations", "2"]
    launch(config, 2, *recipe(tmp_path, *saving))
    facts = run_file(tmp_path)
    assert (facts["processes"], facts["engine"]) == (2, config)
    whole = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert whole != (tmp_path / "run" / "checkpoint-3" / "model.safetensors").read_bytes()

    halfway = str(tmp_path / "run" / "checkpoint-3")
    resumed = ["--output_dir", str(tmp_path / "again"), "--resume_from_checkpoint", halfway]
    launch(config, 2, *recipe(tmp_path, *saving, *resumed))
    steps = [json.loads(line)["step"] for line in (tmp_path / "again" / "metrics.jsonl").open()]
    assert min(steps) == 4
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == whole


@pytest.mark.slow
def test_qlora_on_two_processes(tmp_path):
    quantized = ["--load_in_4bit", "true", "--bnb_4bit_quant_type", "nf4", "--use_peft", "true"]
    steps = ["--lora_target_modules", "all-linear", "--max_steps", "2", "--learning_rate", "1e-3"]
    launch("ddp", 2, *recipe(tmp_path, *quantized, *steps))
    assert (run_file(tmp_path)["processes"], run_file(tmp_path)["engine"]) == (2, "ddp")
    weights = load_file(tmp_path / "run" / "adapter_model.safetensors")
    moved = [name for name, tensor in weights.items() if "lora_B" in name and tensor.count_nonzero()]
    assert any(".visual." in name for name in moved)
    assert any(".language_model." in name for name in moved)
