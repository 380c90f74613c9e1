"""Part `agreement`: the tiny policy of the package answers on the device as on the CPU, and its runs repeat.

Answers are greedy, in float32. Runs are compared bit by bit: the same seed twice, and a resumed run with one that was
not interrupted.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from policy import DEVICE
from presets import Preset
from torch import Tensor

from omnirl_core.data import load_dataset
from omnirl_core.models import load_policy, load_processor
from omnirl_core.rewards import load_rewards
from omnirl_core.shapes import tiny_policy, write_dataset
from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from omnirl_tools.evaluation.score import evaluate

REWARDS = Path(__file__).parents[2] / "recipes" / "mixed" / "rewards.yaml"
PLAIN = {"default": "plain"}
HALF = {"bf16": True, "shared_prefix": "on", "verify_shared_prefix": True}
"""Weights in float32 under autocast; the trainer stops where the first pass differs from the plain one."""


def agreement(preset: Preset) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    n_rows = 84 if preset.repeats > 1 else 7
    checks: dict[str, Callable[[Path], dict[str, Any]]] = {
        "greedy answers as on the CPU": lambda folder: same_answers(folder, n_rows),
        "same seed, shared_prefix on": lambda folder: repeats(folder, shared_prefix="on"),
        "same seed, shared_prefix off": lambda folder: repeats(folder, shared_prefix="off"),
        "resumed run": resumes,
        "float32 weights, bf16 autocast, shared prefix": lambda folder: one_run(folder, **HALF)[1],
        "bf16 weights, bf16 autocast, shared prefix": lambda folder: one_run(
            folder, **HALF, model_init_kwargs={"dtype": "bfloat16"}
        )[1],
    }
    for name, check in checks.items():
        with tempfile.TemporaryDirectory() as folder:
            yield name, partial(check, Path(folder))


def same_answers(folder: Path, n_rows: int) -> dict[str, Any]:
    """Held-out samples of every modality, answered on both."""
    rows = load_dataset(write_dataset(folder, "mixed", n=n_rows, seed=0, split="test"), templates=PLAIN)
    rows, rewards, processor = list(rows), load_rewards(REWARDS), load_processor(tiny_policy())
    lines = {
        device: evaluate(
            load_policy(tiny_policy(), dtype="float32").to(device),
            processor,
            rows,
            rewards,
            max_new_tokens=48,
        )
        for device in ("cpu", DEVICE)
    }
    pairs = list(zip(lines["cpu"], lines[DEVICE], strict=True))
    equal = sum(mine["completion"] == theirs["completion"] for mine, theirs in pairs)
    scores = {device: sum(line["score"] or 0.0 for line in found) / len(found) for device, found in lines.items()}
    status = "measured" if equal >= 0.98 * len(pairs) else "wrong"
    return {"status": status, "answers": len(pairs), "equal": equal, "mean_score": scores}


def one_run(folder: Path, **settings: Any) -> tuple[Tensor, dict[str, Any]]:
    """Weights after three optimizer steps on mixed samples."""
    data = load_dataset(write_dataset(folder / "data", "mixed", n=14, seed=0), templates=PLAIN)
    resume = settings.pop("resume", None)
    defaults: dict[str, Any] = dict(
        output_dir=str(folder / "run"), use_cpu=DEVICE == "cpu", bf16=False, gradient_checkpointing=False,
        report_to="none", disable_tqdm=True, save_strategy="no", max_steps=3, seed=1, num_generations=4,
        per_device_train_batch_size=16, max_completion_length=12, learning_rate=1e-3,
    )  # fmt: skip
    config = OmniGRPOConfig(**defaults | settings)
    trainer = OmniGRPOTrainer(tiny_policy(), load_rewards(REWARDS), config, data)
    trainer.train(resume_from_checkpoint=resume)
    weights = torch.cat([p.detach().float().flatten().cpu() for p in trainer.model.parameters()])
    status = "measured" if weights.isfinite().all() else "wrong"
    return weights, {"status": status, "steps": trainer.state.global_step}


def compared(first: Tensor, second: Tensor) -> dict[str, Any]:
    difference = (first - second).abs().max().item()
    return {"status": "measured", "same_bits": torch.equal(first, second), "largest_difference": difference}


def repeats(folder: Path, **settings: Any) -> dict[str, Any]:
    first, second = (one_run(folder / name, **settings)[0] for name in ("first", "second"))
    return compared(first, second)


def resumes(folder: Path) -> dict[str, Any]:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 3}
    whole, _ = one_run(folder, **saving)
    resumed, _ = one_run(folder, **saving, resume=str(folder / "run" / "checkpoint-2"))
    return compared(whole, resumed)
