"""The randomly initialised policy, its processor and prompts of an exact number of tokens; nothing is fetched."""

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from presets import Cell, Preset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

SPECIAL = ["<pad>", "<end>", "<vision>", "</vision>", "<image>", "<video>"]
WORDS = 1000
TEMPLATE = (
    "{% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<vision> <image> </vision> "
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_processor() -> Qwen2_5_VLProcessor:
    """Qwen2.5-VL's own processor over a tokenizer whose tokens are words."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(WORDS))])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<end>", chat_template=TEMPLATE,
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"}, padding_side="left",
    )  # fmt: skip
    images = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 2000 * 2000})
    return Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=TEMPLATE)


def make_config(preset: Preset, dtype: str = "bfloat16", **changes: Any) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL with the preset's sizes; `changes` are of its text config."""
    return Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=preset.vocabulary, max_position_embeddings=4096, tie_word_embeddings=True,
            bos_token_id=None, eos_token_id=1, pad_token_id=0, **preset.text | changes,
        ),
        vision_config=preset.vision, tie_word_embeddings=True, dtype=dtype,
        vision_start_token_id=2, vision_end_token_id=3, image_token_id=4, video_token_id=5,
    )  # fmt: skip


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
