"""Part `tuning`: steps of LoRA, nf4 QLoRA and other ways to train, with their peaks against the estimate."""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from policy import make_policy, make_processor
from presets import Preset
from training import Run, measured, release

LORA = {"use_peft": True, "lora_r": 16, "lora_target_modules": ["all-linear"]}
NF4 = LORA | {"load_in_4bit": True}
OFF, CHECKPOINTING = {"shared_prefix": "off"}, {"gradient_checkpointing": True}
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": ({}, {}),
    "full, gradient checkpointing": (CHECKPOINTING, {}),
    "full, shared_prefix off, gradient checkpointing": (OFF | CHECKPOINTING, {}),
    "full, frozen vision tower": ({"freeze_vision_tower": True}, {}),
    "LoRA": ({}, LORA),
    "LoRA, shared_prefix off": (OFF, LORA),
    "LoRA, gradient checkpointing": (CHECKPOINTING, LORA),
    "full, reference model (beta 0.04)": ({"beta": 0.04}, {}),
    "nf4 QLoRA": ({}, NF4),
    "nf4 QLoRA, gradient checkpointing": (CHECKPOINTING, NF4),
}
"""Settings of OmniGRPOConfig and of ModelConfig."""


def needs_folder(training: dict[str, Any], model: dict[str, Any]) -> bool:
    """Whether TRL has to load the policy itself: to quantize it, or a second time as the reference."""
    return "beta" in training or "load_in_4bit" in model


def tuning(preset: Preset) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    with tempfile.TemporaryDirectory() as folder:
        for name in WAYS:
            yield name, partial(steps, name, preset, folder)


def steps(name: str, preset: Preset, folder: str) -> dict[str, Any]:
    """Of one way to train; the policy is written to `folder` the first time that it is needed there."""
    training, model = WAYS[name]
    if "load_in_4bit" in model and find_spec("bitsandbytes") is None:
        return {"status": "skipped", "reason": "bitsandbytes is not installed"}
    from_folder = needs_folder(training, model)
    if from_folder and not list(Path(folder).iterdir()):
        write_checkpoint(preset, folder)
    run = Run(preset.tuning_cell, True, training, model, folder=folder if from_folder else None)
    found = measured(run, preset)
    found.pop("completions", None)
    return found


def write_checkpoint(preset: Preset, folder: str) -> None:
    """The policy and its processor, as `from_pretrained` reads them."""
    make_policy(preset).save_pretrained(folder)
    make_processor().save_pretrained(folder)
    release()
