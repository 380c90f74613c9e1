"""What an estimate counts, by arithmetic on Qwen2.5-VL's published sizes; test_measured.py holds it to real peaks."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from trl import ModelConfig

from omnirl_core.boxes import resized_size
from omnirl_core.shapes import write_dataset
from omnirl_core.trainer import OmniGRPOConfig
from omnirl_tools.cli import main
from omnirl_tools.memory import Cluster, Prompt, estimate_memory, fitting, model_config
from omnirl_tools.memory.fitting import CONTEXT, GIB, Plan, single_changes, steps_to_fit

ROOT = Path(__file__).parents[2]
THREE_B, SEVEN_B = (f"Qwen/Qwen2.5-VL-{size}-Instruct" for size in ("3B", "7B"))
PARAMETERS = {
    THREE_B: 3_754_622_976,
    SEVEN_B: 8_292_166_656,
}  # of the checkpoints' safetensors, as the hub shows them
LORA = dict(use_peft=True, lora_r=16, lora_target_modules=["all-linear"])
ONE = Cluster()
PROMPT = Prompt.of_pixels(text_tokens=100, n_images=1, pixels=512 * 512)


@pytest.fixture(scope="module")
def estimate(tmp_path_factory):
    config = model_config(THREE_B)

    def run(model=(), cluster=ONE, prompt=PROMPT, on_gpu=True, **settings):
        given = dict(per_device_train_batch_size=8, num_generations=8, bf16=False, use_cpu=True, report_to="none")
        training = OmniGRPOConfig(str(tmp_path_factory.getbasetemp()), **given | settings)
        kept = ModelConfig(**dict(dtype="bfloat16") | dict(model))
        return estimate_memory(training, kept, config, prompt, cluster=cluster, on_gpu=on_gpu)

    return run


@pytest.mark.parametrize("name", PARAMETERS)
def test_weights_are_those_of_the_checkpoint(name, tmp_path):
    training = OmniGRPOConfig(str(tmp_path), bf16=False, use_cpu=True, report_to="none")
    found = estimate_memory(training, ModelConfig(dtype="bfloat16"), model_config(name), PROMPT)
    assert found.weights == 2 * PARAMETERS[name]


def test_zero_shares_out_stage_by_stage(estimate):
    plain, one, two, three = (estimate(cluster=Cluster(8, stage)) for stage in (0, 1, 2, 3))
    assert one.optimizer == 12 * PARAMETERS[THREE_B] // 8  # float32 weights and two means
    assert (one.gradients, one.weights) == (plain.gradients, plain.weights)
    assert two.gradients == one.gradients // 8
    assert two.weights == one.weights
    assert three.weights - two.weights // 8 < two.weights / 10  # two gathered layers besides
    assert three.rollout - two.rollout == 2 * PARAMETERS[THREE_B]  # gathered whole to generate
    assert estimate(cluster=Cluster(8, 3), ds3_gather_for_generation=False).rollout == two.rollout


def test_offload_moves_to_the_host_what_zero_shares_out(estimate):
    here, there = estimate(cluster=Cluster(8, 3)), estimate(cluster=Cluster(8, 3, offload=True))
    assert there.optimizer == 0
    assert there.host == here.optimizer + 2 * PARAMETERS[THREE_B] // 8
    assert here.peak - there.peak == there.host


def test_fsdp_keeps_trained_weights_in_float32(estimate):
    sharded = estimate(cluster=Cluster(8, fsdp=True))
    assert sharded.optimizer == 8 * PARAMETERS[THREE_B] // 8
    assert sharded.gradients == 4 * PARAMETERS[THREE_B] // 8


def test_a_reference_model_is_a_second_one_but_for_lora(estimate):
    assert estimate(beta=0.04).reference == 2 * PARAMETERS[THREE_B]
    assert estimate().reference == 0
    assert estimate(LORA, beta=0.04).reference == 0  # the policy without its adapter


def test_lora_trains_few_parameters_and_nf4_keeps_them_in_half_a_byte(estimate):
    full, lora, nf4 = estimate(), estimate(LORA), estimate(LORA | dict(load_in_4bit=True))
    assert lora.gradients < full.gradients / 25
    assert lora.optimizer < full.optimizer / 12
    language = 36 * (2048 * (2 * 2048 + 2 * 256) + 3 * 2048 * 11008)  # linear layers of the language model
    assert lora.weights - nf4.weights == pytest.approx(language * (2 - 0.5 - 1 / 16), rel=1e-6)


def test_what_saves_memory_saves_it(estimate):
    shared, plain = estimate(), estimate(shared_prefix="off")
    assert shared.activations < plain.activations / 1.5
    assert shared.kv_cache == plain.kv_cache  # a GPU copies small prompts for every row
    assert estimate(on_gpu=False).kv_cache < plain.kv_cache
    many = {"gradient_accumulation_steps": 64}
    assert estimate(**many).kv_cache < estimate(**many, shared_prefix="off").kv_cache
    assert estimate(gradient_checkpointing=True).activations < estimate(gradient_checkpointing=False).activations / 5
    assert estimate(use_vllm=True).kv_cache == 0
    longer = replace(PROMPT, tokens=2 * PROMPT.tokens)
    assert estimate(prompt=longer).kv_cache > shared.kv_cache


COMMANDS = {
    ("recipes/mixed/demo.yaml",): ["tiny_policy, full fine-tuning, 1 process", "needed on each device"],
    ("recipes/mixed/qwen2_5_vl_3b.yaml", "--accelerate_config", "accelerate_configs/zero3_offload.yaml"): [
        "8 processes, ZeRO-3, offload", "and in the host"],
    ("recipes/rec/qwen2_5_vl_3b_qlora.yaml",): ["4-bit LoRA"],
    ("recipes/rec/qwen2_5_vl_7b.yaml", "--accelerate_config", "accelerate_configs/fsdp2.yaml", "--beta=0.04"): [
        "8 processes, FSDP2", "reference model"],
}  # fmt: skip


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_the_command_tells_the_parts(arguments, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["estimate-memory", *arguments]) == 0
    reported = capsys.readouterr().out
    assert all(part in reported for part in [*COMMANDS[arguments], "peaks on one H100"]), reported


WRONG = {
    ("recipes/mixed/none.yaml",): "none.yaml",
    ("recipes/mixed/demo.yaml", "--accelerate_config", "none.yaml"): "--accelerate_config none.yaml",
    ("recipes/mixed/demo.yaml", "--accelerate_config", "recipes/mixed/demo.yaml"): "distributed_type is None",
    ("recipes/mixed/demo.yaml", "--offload"): "add --zero 2",
    ("recipes/mixed/demo.yaml", "--num_processes", "0"): "at least 1",
    ("recipes/mixed/demo.yaml", "--max_stepz", "3"): "max_stepz",
    ("recipes/mixed/demo.yaml", "--model_name_or_path", "no/such-model"): "config of no/such-model",
}


@pytest.mark.parametrize("arguments", WRONG, ids=lambda arguments: " ".join(arguments[1:3]) or "missing")
def test_what_cannot_be_estimated_is_exit_code_2(arguments, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["estimate-memory", *arguments]) == 2
    assert WRONG[arguments] in capsys.readouterr().err


def plan(tmp_path, **settings):
    training = OmniGRPOConfig(
        str(tmp_path), bf16=False, use_cpu=True, report_to="none", num_generations=8, max_completion_length=256,
        **dict(per_device_train_batch_size=8, gradient_accumulation_steps=4) | settings,
    )  # fmt: skip
    return Plan(training, ModelConfig(dtype="bfloat16"), PROMPT, ONE, model_config(THREE_B))


def test_the_changes_make_it_fit_and_each_figure_is_an_estimate(tmp_path):
    whole = plan(tmp_path)
    needed = whole.needed(0)
    assert steps_to_fit(whole, needed) == ([], True)
    steps, fits = steps_to_fit(whole, 16 * GIB)
    assert fits
    assert steps[-1].needed <= 16 * GIB < min([needed, *(step.needed for step in steps[:-1])])
    assert any("use_peft" in step.change for step in steps), "all weights and their gradients take 14 GiB"
    lora = whole.model_with(**fitting.LORA)
    alone = {step.change: step.needed for step in single_changes(whole, lora.needed(0))}
    assert alone[next(change for change in alone if "use_peft" in change)] == lora.needed(0)
    never, fits = steps_to_fit(whole, GIB)
    assert not fits
    assert never[-1].needed > GIB


def test_a_small_excess_takes_a_small_change(tmp_path):
    whole = plan(tmp_path, gradient_checkpointing=False).model_with(**fitting.LORA)
    steps, fits = steps_to_fit(whole, whole.needed(0) - 2**20)
    assert fits
    assert [step.change for step in steps] == ["gradient_checkpointing: true"]
    assert steps[0].needed == whole.training_with(gradient_checkpointing=True).needed(0)


def test_vllm_beside_the_training_takes_its_share(tmp_path):
    beside = plan(tmp_path).training_with(use_vllm=True, vllm_mode="colocate", vllm_gpu_memory_utilization=0.25)
    assert beside.needed(40 * GIB) == beside.estimate().peak + CONTEXT + 10 * GIB


def test_image_tokens_come_from_the_data_set(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    write_dataset(tmp_path, "image_text", 12, 0, "train")
    rows = str(tmp_path / "train.json")
    given = ["--dataset_name", rows, "--model_name_or_path", THREE_B]
    assert main(["estimate-memory", "recipes/mixed/demo.yaml", *given]) == 0
    reported = capsys.readouterr().out
    images = {image for line in json.loads((tmp_path / "train.json").read_text()) for image in [line["image"]]}
    sizes = [Image.open(tmp_path / image).size for image in images]
    tokens = max(width * height for width, height in map(resized_size, sizes)) // 28**2
    assert f" {tokens} of them images (the longest of {rows})" in reported


def test_small_images_need_what_they_hold_and_not_what_is_assumed(tmp_path, monkeypatch, capsys):
    """64 x 64 pixels are 16 tokens of the tiny policy; without the data set 1,280 are assumed, for 4.16 GiB."""
    monkeypatch.chdir(ROOT)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    sample = {"problem": "What color is it?", "solution": "red", "image": "a.png"}
    (tmp_path / "train.json").write_text(json.dumps([sample] * 2))
    needed = {}
    for rows in (str(tmp_path / "train.json"), "not/there.json"):
        given = ["--dataset_name", rows, "--image_root", str(tmp_path)]
        assert main(["estimate-memory", "recipes/mixed/demo.yaml", *given]) == 0
        reported = capsys.readouterr().out
        tokens = re.search(r"prompts of ([\d,]+) tokens, ([\d,]+) of them", reported)
        needed[tokens[2]] = float(re.search(r"needed on each device +(\d+\.\d\d) GiB", reported)[1])
    assert list(needed) == ["16", "1,280"]
    assert needed["16"] < 0.6 < 4 < needed["1,280"]


def test_the_command_ends_with_a_verdict(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    small = ["recipes/mixed/demo.yaml", "--output_dir", str(tmp_path)]
    assert main(["estimate-memory", *small, "--gpu_memory", "80"]) == 0
    assert re.search(
        r"\nfits: \d+\.\d\d of 80.00 GiB with 1 GiB for CUDA, \d+\.\d\d GiB free", capsys.readouterr().out
    )
    assert main(["estimate-memory", "recipes/rec/qwen2_5_vl_3b_lora.yaml", "--gpu_memory", "8"]) == 1
    reported = capsys.readouterr().out.split("does not fit: ")[1]
    assert re.search(r"\n  (and )?[a-z_]+: .* +\d\.\d\d GiB  fits\n", f"{reported}\n")
    assert main(["estimate-memory", *small, "--gpu_memory", "0"]) == 2


def test_an_estimate_says_nothing_of_its_libraries(recwarn):
    import warnings

    from trl import ModelConfig, get_peft_config

    from omnirl_tools.memory.model_size import _meta_model, model_config

    lora = get_peft_config(ModelConfig(use_peft=True, lora_r=8, lora_target_modules=["all-linear"]))
    warnings.resetwarnings()
    _meta_model(model_config("Qwen/Qwen2.5-VL-3B-Instruct"), torch.bfloat16, None, lora, True)
    assert not [str(warning.message) for warning in recwarn]
