"""What is left out of the forward pass changes nothing of a step: gradients, weights and what is logged."""

import math
import zlib

import pytest
import torch
from conftest import row
from datasets import Dataset
from peft import LoraConfig

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")
IMAGES = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
GROUP = 3


def flat(worker):
    return torch.cat([p.detach().flatten() for p in worker.model.parameters()])


def gradient_of(worker, inputs, skips):
    """Of the loss of one micro-batch, the loss, and how many completions the model has seen."""
    worker.settings.skip_zero_advantages = skips
    worker._add_collaborators()
    seen = []
    head = worker.model.get_base_model() if hasattr(worker.model, "get_base_model") else worker.model
    handle = head.register_forward_pre_hook(lambda module, args, kwargs: seen.append(shown(kwargs)), with_kwargs=True)
    worker.model.zero_grad()
    loss = worker._compute_loss(worker.model, dict(inputs))
    loss.backward()
    handle.remove()
    found = [torch.zeros(1) if p.grad is None else p.grad for p in worker.model.parameters() if p.requires_grad]
    return torch.cat([g.flatten().double() for g in found]), loss.item(), seen


def shown(kwargs):
    """Rows, or tokens of the pack, and patches of images."""
    ids, pixels = kwargs["input_ids"], kwargs.get("pixel_values")
    return (ids.shape[1] if len(ids) == 1 else len(ids)), 0 if pixels is None else len(pixels)


def half(completions, prompts, **columns):
    """Two of four groups are constant."""
    dull = ["dull" in str(prompt) for prompt in prompts]
    values = [zlib.crc32(str(text).encode()) % 1000 / 1000 for text in completions]
    return [0.2 if one else value for one, value in zip(dull, values, strict=True)]


@pytest.fixture
def batch(trainer, image_files, tiny_text_checkpoint):
    """A trainer and a micro-batch of four groups, two of them constant."""

    def make(samples="mixed", reward=half, **settings):
        images = [image_files[:1], [], image_files[1:3], image_files[3:4]]
        images = [image_files[:1]] * 4 if samples == "images" else images
        names = ["one dull", "another", "a third, longer, dull", "the last"]
        data = [row(name, own, f"r:{name}") for name, own in zip(names, images, strict=True)]
        model = None
        if samples == "text":
            data, model = Dataset.from_dict({"prompt": names}), tiny_text_checkpoint
        extra = {"peft_config": LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False)}
        worker = trainer(
            data, reward, model, scripted=True, num_generations=GROUP, per_device_train_batch_size=4 * GROUP,
            extra=extra if settings.pop("lora", False) else None, shuffle_dataset=False, **settings,
        )  # fmt: skip
        worker.model.train()
        worker.current_gradient_accumulation_steps = 1
        rows = [data[i] for i in range(4) for _ in range(GROUP)] if samples == "text" else None
        inputs = worker._prepare_inputs(rows or [one for one in data for _ in range(GROUP)])
        return worker, inputs

    return make


def compared(worker, inputs, expected_rows=2 * GROUP):
    full, loss, all_rows = gradient_of(worker, inputs, False)
    ours, same_loss, rows = gradient_of(worker, inputs, True)
    assert full.norm() > 0
    assert (ours - full).norm() <= 1e-6 * full.norm()
    assert same_loss == pytest.approx(loss, abs=1e-6)
    [(n_all, pixels)], [(n, fewer)] = all_rows, rows
    assert n < n_all
    assert fewer < pixels or not pixels
    if worker.shared_prefix is None:
        assert (n_all, n) == (4 * GROUP, expected_rows)


def off_policy(worker, inputs, **more):
    """As if the policy had moved since, and vLLM had sampled."""
    draw = torch.Generator().manual_seed(1)
    values, _, _ = worker._get_per_token_logps_and_entropies(
        worker.model, torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
        torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1), inputs["completion_ids"].shape[1],
        **{name: inputs[name] for name in IMAGES},
    )  # fmt: skip
    noise = [0.3 * torch.randn(values.shape, generator=draw) for _ in range(2)]
    old = values.detach() + noise[0]
    ratio = noise[1].exp()
    return {**inputs, "old_per_token_logps": old, "importance_sampling_ratio": ratio, **more}


def test_every_loss_type(batch):
    worker, inputs = batch()
    assert (inputs["advantages"] == 0).sum() == 2 * GROUP
    moved = off_policy(worker, inputs, sampling_per_token_logps=inputs["completion_ids"] * 0.0 - 5.0)
    worker._metrics["train"].clear()
    for loss_type in LOSS_TYPES:
        worker.loss_type = loss_type
        compared(worker, inputs)
        worker.use_vllm = worker.vllm_importance_sampling_correction = True
        compared(worker, moved)
        worker.use_vllm = False
    logged = worker._metrics["train"]
    for name, values in logged.items():
        if name not in ("entropy", "completions/skipped_ratio", "vespo/phi_seq_mean"):
            assert values[::2] == pytest.approx(values[1::2], nan_ok=True), name
    assert logged["completions/skipped_ratio"] == pytest.approx([0.5] * 2 * len(LOSS_TYPES))


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": "text"},
        {"samples": "images", "importance_sampling_level": "sequence", "loss_type": "grpo"},
        {"samples": "text", "shared_prefix": "on", "off_policy_mask_threshold": 0.5},
        {"shared_prefix": "on"},
        {"shared_prefix": "on", "lora": True, "gradient_checkpointing": True},
        {"lora": True, "gradient_checkpointing": True},
    ],
    ids=str,
)
def test_every_path(batch, settings):
    compared(*batch(**settings))


def test_entropy_is_of_what_is_forwarded(batch):
    worker, inputs = batch()
    kept = inputs["advantages"] != 0
    _, _, _ = gradient_of(worker, inputs, True)
    measured = worker._metrics["train"]["entropy"][-1]
    _, entropies, _ = worker._get_per_token_logps_and_entropies(
        worker.model, torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
        torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1), inputs["completion_ids"].shape[1],
        compute_entropy=True, **{name: inputs[name] for name in IMAGES},
    )  # fmt: skip
    mask = (inputs["completion_mask"] * kept[:, None]).bool()
    assert measured == pytest.approx(entropies[mask].mean().item(), rel=1e-5)


@pytest.mark.parametrize("shared", ["off", "on"])
def test_where_nothing_has_signal_the_shortest_is_forwarded(batch, shared):
    worker, inputs = batch(reward=lambda prompts, **columns: [0.5] * len(prompts), shared_prefix=shared)
    gradient, loss, [(n, _)] = gradient_of(worker, inputs, True)
    assert not gradient.any()
    assert loss == 0
    lengths = inputs["prompt_mask"].sum(1) + inputs["completion_mask"].sum(1)
    assert (
        n <= lengths.min()
        if shared == "on"
        else n == inputs["prompt_ids"].shape[1] + inputs["completion_ids"].shape[1]
    )
    assert math.isfinite(worker._metrics["train"]["entropy"][-1])


def test_what_is_masked_is_left_out_too(batch):
    worker, inputs = batch()
    kept = (inputs["advantages"] != 0).nonzero()[0]
    inputs["completion_mask"][kept] = 0  # as mask_truncated_completions does
    compared(worker, inputs, 2 * GROUP - 1)


@pytest.mark.parametrize(
    "settings",
    [{"beta": 0.1}, {"entropy_coef": 0.01}, {"top_entropy_quantile": 0.5}, {"skip_zero_advantages": False}],
    ids=str,
)
def test_where_a_loss_needs_all_of_them_all_are_forwarded(batch, settings):
    worker, inputs = batch("text", **settings)
    skips = settings.get("skip_zero_advantages", True)
    _, _, [(n, _)] = gradient_of(worker, inputs, skips)
    assert n == 4 * GROUP
    assert "completions/skipped_ratio" not in worker._metrics["train"]


@pytest.mark.parametrize("settings", [{"num_iterations": 2}, {"gradient_accumulation_steps": 2}], ids=str)
def test_a_run_ends_with_the_same_weights(trainer, rows, settings):
    def some(completions, row_id, **columns):
        return half(completions, ["dull" if name in ("r:1", "r:3", "r:5") else "" for name in row_id])

    ends = []
    for skips in (False, True):
        worker = trainer(
            rows, some, skip_zero_advantages=skips, per_device_train_batch_size=4, max_steps=3, scripted=True,
            optim="sgd", learning_rate=0.1, **settings,
        )  # fmt: skip
        worker.train()
        ends.append((flat(worker), worker.state.log_history))
    (full, lines), (ours, our_lines) = ends
    assert (ours - full).norm() <= 1e-6 * full.norm()
    assert any(line.get("completions/skipped_ratio") for line in our_lines)
    for name in ("loss", "grad_norm", "reward", "clip_ratio/region_mean"):
        values = [[line[name] for line in log if name in line] for log in (lines, our_lines)]
        assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-6), name
