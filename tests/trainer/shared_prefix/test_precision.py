"""Packs at other precisions than float32: as near to float32 as plain rows at that precision are."""

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from test_attention import SPANS, dense
from test_packing import CASES, FAMILIES, batch, gradient, plain, policy
from test_runtime import SETTINGS
from transformers import BitsAndBytesConfig

from omnirl_core.models import load_policy
from omnirl_core.trainer.shared_prefix.packing import PackMask, pack, packed_log_probs

LORA = LoraConfig(target_modules="all-linear", exclude_modules=["lm_head"], r=4, init_lora_weights=False)


def autocast(dtype):
    return torch.autocast("cpu", dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SPANS)
def test_attention_takes_inputs_as_autocast_does(name, dtype):
    """Rotated queries and keys are float32 under autocast, values are not."""
    spans = SPANS[name]
    q, k = (torch.randn(1, heads, spans[-1].end, 8) for heads in (4, 2))
    v = torch.randn_like(k).to(dtype)
    with autocast(dtype):
        found, expected = (
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
            for mask in (PackMask.of(spans, q.device), dense(spans))
        )
    assert found.dtype == expected.dtype == dtype
    assert (found - expected).abs().max() <= 0.02


@pytest.mark.parametrize("precision", ["bf16 autocast", "fp16 autocast", "bf16 weights"])
@pytest.mark.parametrize("family", [name for name in FAMILIES if "windows" not in name])
def test_log_probabilities_and_gradients_within_the_rounding(family, precision):
    model = policy(family)
    rows = batch(model, CASES["groups of every kind, ragged"])
    weights = torch.randn(rows[1].shape, generator=torch.Generator().manual_seed(2)) * rows[2]

    def values(of):
        log_probs, entropy = of()
        return log_probs.detach().float(), gradient(model, (log_probs * weights + 0.1 * entropy).sum()).float()

    exact = values(lambda: plain(model, *rows))
    if precision == "bf16 weights":
        model.bfloat16()
    dtype = torch.float16 if precision == "fp16 autocast" else torch.bfloat16
    with torch.autocast("cpu", dtype=dtype, enabled=precision != "bf16 weights"):
        theirs = values(lambda: plain(model, *rows))
        ours = values(lambda: packed_log_probs(model, model.base_model, pack(*rows)))
    for right, expected, found in zip(exact, theirs, ours, strict=True):
        rounding = (expected - right).norm()
        assert 0 < rounding <= 0.2 * right.norm()
        assert (found - right).norm() <= 1.5 * rounding


def scripted(trainer, data, **settings):
    """Log and weights of a run whose completions are given: rounding would sample others."""
    torch.manual_seed(3)
    worker = trainer(data, scripted=True, optim="sgd", max_grad_norm=0.0, **settings)
    trained = [p for p in worker.model.parameters() if p.requires_grad]
    start = torch.cat([p.detach().flatten().float() for p in trained])
    worker.train()
    return worker, torch.cat([p.detach().flatten().float() for p in trained]) - start


WITH_LORA = ("two iterations", "a reference model", "gradient checkpointing", "reentrant checkpointing")
RUNS = [*((name, False) for name in SETTINGS), *((name, True) for name in WITH_LORA)]


@pytest.mark.parametrize(("name", "lora"), RUNS)
def test_a_run_under_autocast_is_as_near_to_float32_as_the_plain_run(trainer, rows, name, lora):
    settings = {**SETTINGS[name], "learning_rate": 1e-2, "extra": {"peft_config": LORA} if lora else {}}
    settings["max_steps"] = settings.get("num_iterations", 1)
    data = [rows[2], rows[0], rows[1], rows[3]]
    _, exact = scripted(trainer, data, shared_prefix="off", **settings)
    _, theirs = scripted(trainer, data, shared_prefix="off", bf16=True, **settings)
    worker, ours = scripted(trainer, data, shared_prefix="on", verify_shared_prefix=True, bf16=True, **settings)
    assert worker.shared_prefix is not None
    assert not worker.shared_prefix.to_verify
    rounding = (theirs - exact).norm()
    assert 0 < rounding <= 0.2 * exact.norm()
    assert (ours - exact).norm() <= 1.5 * rounding


def test_qlora_is_as_near_to_float32_as_the_plain_run(trainer, rows, tiny_checkpoint):
    """4-bit weights; what is computed from them in float32 against bfloat16, which TRL gives the adapters too."""

    def run(dtype, shared):
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype)
        model = load_policy(tiny_checkpoint, quantization_config=quantization, dtype=dtype)
        settings = dict(num_generations=4, per_device_train_batch_size=8, extra={"peft_config": LORA})
        return scripted(
            trainer, rows[:2], model=model, shared_prefix=shared, bf16=dtype is torch.bfloat16, learning_rate=1.0,
            **settings,
        )[1]  # fmt: skip

    exact, theirs, ours = run(torch.float32, "off"), run(torch.bfloat16, "off"), run(torch.bfloat16, "on")
    rounding = (theirs - exact).norm()
    assert 0 < rounding <= 0.4 * exact.norm()
    assert (ours - exact).norm() <= 1.5 * rounding


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("shared", ["auto", "off"])
def test_the_defaults_of_trl_train(trainer, rows, shared, lora):
    """float32 weights, `bf16: true`, gradient checkpointing; completions are sampled."""
    worker = trainer(
        rows, shared_prefix=shared, bf16=None, gradient_checkpointing=True, max_steps=2, num_generations=4,
        per_device_train_batch_size=8, extra={"peft_config": LORA} if lora else {},
    )  # fmt: skip
    assert worker.args.bf16
    assert worker.model.dtype == torch.float32
    worker.train()
    assert worker.state.global_step == 2
    assert (worker.shared_prefix is not None and worker.shared_prefix.in_rollout) == (shared == "auto")
