"""A run with shared prefixes is the run without: the same completions, losses, gradients and weights."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from omnirl_core.trainer import OmniGRPOTrainer

EIGHT_ROWS = {"num_generations": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "max_steps": 2}
ONE_MICRO_BATCH = {**EIGHT_ROWS, "per_device_train_batch_size": 16}
TWO_MICRO_BATCHES = {**EIGHT_ROWS, "gradient_accumulation_steps": 2}
SETTINGS = {
    "two micro-batches of two groups": TWO_MICRO_BATCHES,
    "half a group a micro-batch": {**EIGHT_ROWS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "a row a micro-batch": {**EIGHT_ROWS, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    "parts of two groups a micro-batch": {
        **EIGHT_ROWS, "per_device_train_batch_size": 6, "gradient_accumulation_steps": 2,
    },
    "a reference model": {**TWO_MICRO_BATCHES, "beta": 0.1},
    "two iterations": {**TWO_MICRO_BATCHES, "num_iterations": 2, "max_steps": 4},
    "gradient checkpointing": {**TWO_MICRO_BATCHES, "gradient_checkpointing": True},
    "reentrant checkpointing": {
        **TWO_MICRO_BATCHES, "gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
    "sequence-level ratios": {
        **TWO_MICRO_BATCHES, "importance_sampling_level": "sequence", "loss_type": "grpo", "num_iterations": 2,
    },
    "high-entropy tokens": {**ONE_MICRO_BATCH, "top_entropy_quantile": 0.5},
    "an entropy bonus": {**ONE_MICRO_BATCH, "entropy_coef": 0.01, "loss_type": "bnpo"},
    "truncated completions masked": {**TWO_MICRO_BATCHES, "mask_truncated_completions": True},
    "padding to multiples, temperature": {**TWO_MICRO_BATCHES, "pad_to_multiple_of": 16, "temperature": 0.7},
    "completions of one token": {**TWO_MICRO_BATCHES, "max_completion_length": 1},
    "frozen tower": {**TWO_MICRO_BATCHES, "freeze_vision_tower": True},
}  # fmt: skip


def chosen(rows, kind):
    return {"mixed": [rows[2], rows[0], rows[1], rows[3]], "text": [rows[0], rows[3]] * 2}[kind]


@pytest.fixture
def run(trainer):
    """Log and weights of a run that samples."""

    def make(data, shared, **settings):
        worker = trainer(data, shared_prefix=shared, optim="sgd", **settings)
        start = torch.cat([p.detach().flatten().clone() for p in worker.model.parameters()])
        worker.train()
        log = [line for line in worker.state.log_history if "loss" in line]
        end = torch.cat([p.detach().flatten() for p in worker.model.parameters()])
        return log, end - start, worker

    return make


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_equals_the_plain_run(run, rows, name):
    log, moved, worker = run(chosen(rows, "mixed"), "on", verify_shared_prefix=True, **SETTINGS[name])
    plain_log, plain_moved, plain = run(chosen(rows, "mixed"), "off", **SETTINGS[name])
    assert worker.shared_prefix.in_rollout
    assert plain.shared_prefix is None
    assert not worker.shared_prefix.to_verify
    assert [line["reward"] for line in log if "reward" in line] == [
        line["reward"] for line in plain_log if "reward" in line
    ]
    for ours, theirs in zip(log, plain_log, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    assert plain_moved.norm() > 0
    assert (moved - plain_moved).norm() <= 1e-4 * plain_moved.norm()  # two steps: the second starts from the first


def test_the_first_gradient_equals_the_plain_one(run, rows):
    settings = {**TWO_MICRO_BATCHES, "max_steps": 1, "max_grad_norm": 0.0, "learning_rate": 1.0}
    (_, moved, _), (_, plain, _) = (run(chosen(rows, "mixed"), shared, **settings) for shared in ("on", "off"))
    assert (moved - plain).norm() <= 1e-5 * plain.norm()


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_lora_with_its_adapter_off_for_the_reference(trainer, rows, beta):
    peft_config = LoraConfig(target_modules="all-linear", exclude_modules=["lm_head"], r=4, init_lora_weights=False)
    runs = {}
    for shared in ("on", "off"):
        torch.manual_seed(3)
        worker = trainer(
            chosen(rows, "mixed"),
            shared_prefix=shared,
            beta=beta,
            extra={"peft_config": peft_config},
            **TWO_MICRO_BATCHES,
        )
        worker.train()
        lines = [line for line in worker.state.log_history if "loss" in line]
        runs[shared] = [(line["loss"], line["grad_norm"], line["reward"], line.get("kl", 0.0)) for line in lines]
    assert runs["on"][0][3] > 0 or not beta
    for ours, theirs in zip(*runs.values(), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("prompt", ["plain", "chat"])
def test_text_only_models(tiny_text_checkpoint, config, prompt):
    words = ["one", "two, and more of it", "three", "four"]
    chats = [[{"role": "user", "content": word}] for word in words]
    data = Dataset.from_dict({"prompt": words if prompt == "plain" else chats})

    def lengths(completions, completion_ids, **columns):
        return [len(ids) + ids[0] % 5 for ids in completion_ids]

    runs = []
    for shared in ("on", "off"):
        worker = OmniGRPOTrainer(
            tiny_text_checkpoint, lengths, config(shared_prefix=shared, **TWO_MICRO_BATCHES), data
        )
        worker.train()
        lines = [line for line in worker.state.log_history if "loss" in line]
        runs.append([(line["loss"], line["grad_norm"], line["reward"]) for line in lines])
    for ours, theirs in zip(*runs, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_evaluation_equals_the_plain_one(trainer, rows):
    logs = []
    for shared in ("on", "off"):
        worker = trainer(
            rows[:2], eval_data=rows, shared_prefix=shared, per_device_eval_batch_size=4, num_generations_eval=2,
        )  # fmt: skip
        torch.manual_seed(0)
        logs.append(worker.evaluate())
    assert logs[0]["eval_reward"] == logs[1]["eval_reward"]
    assert logs[0]["eval_loss"] == pytest.approx(logs[1]["eval_loss"], abs=1e-6)
