"""The randomly initialised policy, its processor and prompts of an exact number of tokens; nothing is fetched."""

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from presets import Cell, Preset
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from word_processor import word_config, word_processor

WORDS = 1000
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_processor() -> Qwen2_5_VLProcessor:
    return word_processor(WORDS)


def make_config(preset: Preset, dtype: str = "bfloat16", **changes: Any) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL with the preset's sizes; `changes` are of its text config."""
    return word_config(preset.vocabulary, preset.text | changes, preset.vision, dtype=dtype)


def make_policy(preset: Preset, dtype: str = "bfloat16", attention: str = "sdpa") -> Any:
    """On the device, with the same weights at every call."""
    config = make_config(preset, dtype)
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(DEVICE):
            model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation=attention)
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 1, 0
    return model


def messages(cell: Cell) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """A prompt of the cell's tokens, and its images, which are noise."""
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)) for side in cell.sides]
    n_words = cell.prompt - cell.image_tokens - 2 * len(images)
    words = " ".join(f"w{i}" for i in random.integers(0, WORDS, n_words))
    blocks = [{"type": "image"}] * len(images) + [{"type": "text", "text": words}]
    return [{"role": "user", "content": blocks}], images


def dataset(cell: Cell) -> Dataset:
    """The same prompt over and over."""
    prompt, images = messages(cell)
    example = {"prompt": prompt, "images": images}

    def draw(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        return {name: [value] * len(batch["index"]) for name, value in example.items()}

    return Dataset.from_dict({"index": [0, 1]}).with_transform(draw)


def reward(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A number that differs between completions."""
    return [sum(ids) % 97 / 97 for ids in completion_ids]
