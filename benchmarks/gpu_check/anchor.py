"""Part `anchor`: what a forward without images pays for the dummy image of a mixed run."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from policy import DEVICE, make_policy
from presets import Preset
from training import median_seconds

TOKENS = 512


def anchor(preset: Preset) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "dummy image", lambda: times(preset)


def times(preset: Preset) -> dict[str, Any]:
    """Forward and backward of the vision tower on its smallest image, and of the language model."""
    model = make_policy(preset)
    tower, side = model.model.visual, model.config.vision_config.spatial_merge_size
    patch = model.config.vision_config
    pixels = torch.zeros(side * side, 3 * patch.temporal_patch_size * patch.patch_size**2, device=DEVICE)
    grid = torch.tensor([[1, side, side]], device=DEVICE)
    ids = torch.randint(6, 1000, (1, TOKENS), device=DEVICE)

    def image() -> None:
        tower(pixels, grid).pooler_output.float().sum().backward()

    def text(rows: int) -> None:
        model(input_ids=ids.expand(rows, -1), logits_to_keep=64).logits.float().sum().backward()

    seconds = {
        "smallest image": median_seconds(image, 5),
        "one sequence": median_seconds(lambda: text(1), 5),
        "eight sequences": median_seconds(lambda: text(8), 5),
    }
    return {"status": "measured", "tokens": TOKENS, "seconds": seconds}
