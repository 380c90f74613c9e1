"""The policies, prompts and table cells of benchmarks/grpo_step.py."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

IMAGES = {128: (12, 8), 512: (24, 16), 1024: (32, 24)}
"""Tokens across and down of the image in a prompt of so many tokens."""
SPECIAL = ["<pad>", "<end>", "<vision>", "</vision>", "<image>", "<video>"]
TEMPLATE = (
    "{% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<vision> <image> </vision> "
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
)
PRESETS: dict[str, dict[str, Any]] = {
    "small": dict(
        vocabulary=4096, words=4000, device="cpu", dtype="float32",
        text=dict(
            hidden_size=320, intermediate_size=960, num_hidden_layers=7, num_attention_heads=8,
            num_key_value_heads=4, rope_parameters={"rope_type": "default", "mrope_section": [4, 8, 8]},
        ),
        vision=dict(
            depth=4, hidden_size=128, intermediate_size=256, num_heads=4, out_hidden_size=320, window_size=112,
            fullatt_block_indexes=[3],
        ),
    ),
    "3b": dict(
        vocabulary=151_936, words=4000, device="cuda", dtype="bfloat16",
        text=dict(
            hidden_size=2048, intermediate_size=11_008, num_hidden_layers=36, num_attention_heads=16,
            num_key_value_heads=2, rope_parameters={"rope_type": "default", "mrope_section": [16, 24, 24]},
        ),
        vision=dict(
            depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=2048, window_size=112,
            fullatt_block_indexes=[7, 15, 23, 31],
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One line of the table."""

    kind: str
    """`image` or `text`: the prompt."""
    group: int
    prompt: int
    completion: int

    @property
    def bound(self) -> float:
        """How many tokens the language model runs of TRL's rows for one of a pack's."""
        return self.group * (self.prompt + self.completion) / (self.prompt + self.group * self.completion)


def write_checkpoint(folder: str, preset: str) -> None:
    """A random policy and its processor; a token is a word, so that prompts have exactly P tokens."""
    sizes = PRESETS[preset]
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(sizes["words"]))])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<end>", chat_template=TEMPLATE,
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"}, padding_side="left",
    )  # fmt: skip
    images = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 2000 * 2000})
    processor = Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=TEMPLATE)
    processor.save_pretrained(folder)
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=sizes["vocabulary"], max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=None,
            eos_token_id=1, pad_token_id=0, **sizes["text"],
        ),
        vision_config=sizes["vision"], tie_word_embeddings=True,
        vision_start_token_id=2, vision_end_token_id=3, image_token_id=4, video_token_id=5,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(sizes["device"]):
        model = Qwen2_5_VLForConditionalGeneration(config).to(getattr(torch, sizes["dtype"]))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 1, 0
    model.save_pretrained(folder)


def rows(cell: Cell) -> Dataset:
    """Prompts of exactly P tokens; the image is noise, kept as a PIL image as TRL takes it."""
    random = np.random.default_rng(0)
    across, down = IMAGES[cell.prompt]
    n_words = cell.prompt - (across * down + 2 if cell.kind == "image" else 0)
    words = " ".join(f"w{i}" for i in random.integers(0, 4000, n_words))
    image = Image.fromarray(random.integers(0, 256, (28 * down, 28 * across, 3), dtype=np.uint8))
    blocks = [{"type": "image"}] * (cell.kind == "image") + [{"type": "text", "text": words}]
    row = {
        "prompt": [{"role": "user", "content": blocks}],
        "images": [image] if cell.kind == "image" else [],
    }

    def draw(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        return {name: [value] * len(batch["place"]) for name, value in row.items()}

    return Dataset.from_dict({"place": [0, 1]}).with_transform(draw)


def reward(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return [sum(ids) % 97 / 97 for ids in completion_ids]
