"""Part `anchor`: what a forward without images pays so that the vision tower's parameters take part in it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from policy import DEVICE, make_policy, make_processor
from presets import Preset
from training import median_seconds

from omnirl_core.trainer.dummy_image import add_dummy_image

TOKENS = 512


def anchor(preset: Preset) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "passes without images", lambda: times(preset)


def times(preset: Preset) -> dict[str, Any]:
    """Forward and backward over G samples: no anchor, zeros for the tower, and the tower on its smallest image."""
    model = make_policy(preset)
    ids = torch.randint(6, 1000, (preset.group, TOKENS), device=DEVICE)

    def run() -> None:
        model.zero_grad()
        model(input_ids=ids, logits_to_keep=64).logits.float().sum().backward()

    seconds = {"no anchor": median_seconds(run, 5)}
    found = add_dummy_image(model, make_processor(), sharded=False, runs_tower=False)
    if found is None:
        raise ValueError("the policy has no vision tower")
    seconds["zero gradients (one process, DDP)"] = median_seconds(run, 5)
    model.model._dummy_image = replace(found, runs_tower=True)
    seconds["the tower on its smallest image (DeepSpeed, FSDP)"] = median_seconds(run, 5)
    return {"status": "measured", "tokens": TOKENS, "samples": preset.group, "seconds": seconds}
