"""The policies, prompts and table cells of benchmarks/grpo_step.py."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from gpu_check.word_processor import word_config, word_processor
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration

IMAGES = {128: (12, 8), 512: (24, 16), 1024: (32, 24)}
"""Tokens across and down of the image in a prompt of so many tokens."""


def preset(
    vocabulary: int,
    words: int,
    device: str,
    dtype: str,
    *,
    text: tuple[int, ...],
    rotated: list[int],
    vision: tuple[int, ...],
    full_attention: list[int],
) -> dict[str, Any]:
    """Sizes of a policy. `text`: hidden, intermediate, layers, heads, heads of keys; `vision`: depth, hidden, ..."""
    hidden, intermediate, layers, heads, key_heads = text
    depth, width, inner, n_heads = vision
    return dict(
        vocabulary=vocabulary, words=words, device=device, dtype=dtype,
        text=dict(
            hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=key_heads, rope_parameters={"rope_type": "default", "mrope_section": rotated},
        ),
        vision=dict(
            depth=depth, hidden_size=width, intermediate_size=inner, num_heads=n_heads, out_hidden_size=hidden,
            window_size=112, fullatt_block_indexes=full_attention,
        ),
    )  # fmt: skip


PRESETS: dict[str, dict[str, Any]] = {
    "small": preset(
        4096, 4000, "cpu", "float32", text=(320, 960, 7, 8, 4), rotated=[4, 8, 8], vision=(4, 128, 256, 4),
        full_attention=[3],
    ),
    "3b": preset(
        151_936, 4000, "cuda", "bfloat16", text=(2048, 11_008, 36, 16, 2), rotated=[16, 24, 24],
        vision=(32, 1280, 3420, 16), full_attention=[7, 15, 23, 31],
    ),
}  # fmt: skip
ALONE = {"3b-cpu": 36, "3b-cpu-8": 8}
"""Presets of the 3B shape on a CPU, with so many of its 36 layers: LoRA on the language model, checkpointing, a process
for each trainer."""
PRESETS |= {
    name: {**PRESETS["3b"], "device": "cpu", "text": {**PRESETS["3b"]["text"], "num_hidden_layers": layers}}
    for name, layers in ALONE.items()
}


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
    word_processor(sizes["words"]).save_pretrained(folder)
    config = word_config(sizes["vocabulary"], sizes["text"], sizes["vision"])
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, sizes["dtype"]))  # a float32 copy of 3B would not fit beside it
    with torch.device(sizes["device"]):
        model = Qwen2_5_VLForConditionalGeneration(config)
    torch.set_default_dtype(before)
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
