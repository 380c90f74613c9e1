"""Packs at other precisions than float32: as near to float32 as plain rows at that precision are."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from test_attention import SPANS, dense
from test_packed_families import CASES as IMAGE_CASES
from test_packed_families import FAMILIES as IMAGE_FAMILIES
from test_packed_families import Family, completions
from test_packed_families import packed as image_pack
from test_packed_families import plain as image_rows
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


PRECISIONS = ("bf16 autocast", "fp16 autocast", "bf16 weights")
DRAWS = 4
"""Of the weights: of one draw, the errors of two equal passes differ by up to 1.7 times."""


def values(model, passes, weights):
    """Log-probabilities of the scored tokens and the gradient of a loss, as float32."""
    log_probs, entropy = passes()
    moves = gradient(model, (log_probs * weights + 0.1 * entropy).sum())
    return log_probs.detach().float() * (weights != 0), moves.float()


def at_precision(model, precision, plain, packed, weights):
    """For log-probabilities and gradient: relative errors of plain rows and of a pack."""
    exact = values(model, plain, weights)
    if precision == "bf16 weights":
        model.bfloat16()
    dtype = torch.float16 if precision == "fp16 autocast" else torch.bfloat16
    with torch.autocast("cpu", dtype=dtype, enabled=precision != "bf16 weights"):
        found = [values(model, passes, weights) for passes in (plain, packed)]
    errors = [[(one - right).norm() / right.norm() for one, right in zip(own, exact, strict=True)] for own in found]
    return torch.tensor(errors)  # (plain or packed, log-probabilities or gradient)


def check_errors(errors):
    """The pack's over the plain rows', as the geometric mean of the draws; bf16 can choose another expert."""
    theirs, ours = torch.stack(errors, 1)
    assert (theirs > 0).all()
    assert (theirs.mean(0) <= 0.2).all()
    ratios = (ours / theirs).log().mean(0).exp()
    assert (ratios <= 1.25).all(), ratios


def scored(mask):
    return torch.randn(mask.shape, generator=torch.Generator().manual_seed(2)) * mask


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_and_gradients_within_the_rounding(family, precision):
    errors = []
    for seed in range(DRAWS):
        model = policy(family, seed)
        rows = batch(model, CASES["groups of every kind, ragged"])
        passes = partial(plain, model, *rows), partial(packed_log_probs, model, model.base_model, pack(*rows))
        errors.append(at_precision(model, precision, *passes, scored(rows[2])))
    check_errors(errors)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", IMAGE_FAMILIES)
def test_families_with_other_images_are_within_the_rounding(name, precision):
    numbers, lengths = IMAGE_CASES["groups of every kind, ragged"]
    ids, mask = completions(lengths)
    errors = []
    for seed in range(DRAWS):
        family = Family(name, seed)
        passes = (partial(of, family, numbers, ids, mask) for of in (image_rows, image_pack))
        errors.append(at_precision(family.model, precision, *passes, scored(mask)))
    check_errors(errors)


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
