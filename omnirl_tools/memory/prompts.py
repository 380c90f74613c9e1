"""The longest prompt of a data set that is there: its tokens, and how many of them stand for images."""

import os
from typing import Any

from omnirl_core.boxes import resized_size
from omnirl_core.config import DataArguments
from omnirl_core.data import image_size, load_dataset
from omnirl_tools.memory.workload import Prompt

MOST_SAMPLES = 2000
CHARACTERS_PER_TOKEN = 3
"""Few enough for English; where the text has more tokens, `--prompt_tokens` says so."""
TEMPLATE_TOKENS = 40
MIN_PIXELS, MAX_PIXELS = 56 * 56, 1280 * 28 * 28
"""Of an image whose size no setting bounds: what Qwen2-VL's model card advises."""


def longest_prompt(
    data: DataArguments, config: object, min_pixels: int | None, max_pixels: int | None
) -> Prompt | None:
    """Of up to `MOST_SAMPLES` samples, spread over the data set; None where it is not on this machine.

    Image tokens follow from the sizes in the files' headers; text is taken at three characters a token, with 40 for
    the chat template.

    Raises:
        DataError: the data set cannot be read.
    """
    if not os.path.exists(data.dataset_name):
        return None
    rows = load_dataset(
        data.dataset_name,
        data.image_root,
        templates=data.templates,  # type: ignore[arg-type]  # a mapping since __post_init__
        system_prompt=data.system_prompt,
        columns=data.columns,  # type: ignore[arg-type]
        allow_outside_image_root=data.allow_outside_image_root,
    )
    vision = getattr(config, "vision_config", None)
    side = vision.patch_size * getattr(vision, "spatial_merge_size", 2) if vision is not None else 0
    step = -(-len(rows) // MOST_SAMPLES)
    found = [_prompt(rows[place], side, min_pixels, max_pixels) for place in range(0, len(rows), step)]
    tokens = max((prompt.tokens for prompt in found), default=0)
    return Prompt(tokens, max(prompt.image_tokens for prompt in found)) if tokens else None


def _prompt(row: dict[str, Any], side: int, min_pixels: int | None, max_pixels: int | None) -> Prompt:
    images = 0
    for path in (row.get("images") or []) if side else []:
        size = resized_size(image_size(path), side, min_pixels or MIN_PIXELS, max_pixels or MAX_PIXELS)
        images += size[0] * size[1] // side**2
    text = sum(len(_text(message)) for message in row["prompt"]) // CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS
    return Prompt(text + images, images)


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(block.get("text") or "" for block in content)
