"""Rows of every modality, and trainers over them that take a second to build."""

import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset

from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer


def row(text: str, images: list[str], row_id: str) -> dict[str, Any]:
    blocks = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
    prompt = [{"role": "user", "content": blocks}]
    return {"prompt": prompt, "images": images, "solution": text[:1], "task": "test", "row_id": row_id}


def lazily(rows: list[dict[str, Any]]) -> Dataset:
    """A data set whose rows are made when they are drawn, as omnirl_core.data makes them."""
    names = list(rows[0])
    index = Dataset.from_dict({"place": list(range(len(rows)))})
    return index.with_transform(lambda batch: {name: [rows[i][name] for i in batch["place"]] for name in names})


def letters(completions: list[Any], **columns: Any) -> list[float]:
    """A reward that differs between random completions."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [(zlib.crc32(text.encode()) % 1000) / 1000 for text in texts]


class ScriptedTrainer(OmniGRPOTrainer):
    """Its completions follow from the prompt and the place in the group, not from a sampler."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        seen: dict[tuple[int, ...], int] = {}
        completions = []
        for ids in prompt_ids:
            text = tuple(token for token in ids if token != self._image_pad_token_id)
            place = seen[text] = seen.get(text, -1) + 1
            random = torch.Generator().manual_seed(zlib.crc32(repr((text, place)).encode()))
            length = int(torch.randint(2, 8, (1,), generator=random))
            tokens = torch.randint(0, 256, (length,), generator=random).tolist()
            completions.append([*tokens, self._tokenizer.eos_token_id])
        return completions, None


@pytest.fixture(scope="session")
def rows(image_files: list[str]) -> list[dict[str, Any]]:
    """Text, one image, three images of three sizes, longer text, two images, one image."""
    return [
        row("Say a word.", [], "r:1"),
        row("What is it?", image_files[:1], "r:2"),
        row("Compare them.", image_files[1:4], "r:3"),
        row("Write a longer line of text than the other rows have, please.", [], "r:4"),
        row("Which is larger?", [image_files[4], image_files[5]], "r:5"),
        row("Name it.", [image_files[3]], "r:6"),
    ]


@pytest.fixture
def config(tmp_path) -> Callable[..., OmniGRPOConfig]:
    def make(**settings: Any) -> OmniGRPOConfig:
        defaults = dict(
            output_dir=str(tmp_path / "run"), use_cpu=True, bf16=False, gradient_checkpointing=False,
            report_to="none", disable_tqdm=True, save_strategy="no", logging_steps=1, max_steps=1, seed=1,
            num_generations=2, per_device_train_batch_size=2, max_completion_length=8, learning_rate=1e-3,
            shared_prefix="off",
        )  # fmt: skip
        return OmniGRPOConfig(**{**defaults, **settings})

    return make


@pytest.fixture
def trainer(config, tiny_checkpoint) -> Callable[..., OmniGRPOTrainer]:
    """Make a trainer over rows; `scripted=True` fixes its completions."""

    def make(
        data: Any, reward: Any = letters, model: Any = None, scripted: bool = False, eval_data: Any = None,
        extra: dict[str, Any] | None = None, **settings: Any,
    ) -> OmniGRPOTrainer:  # fmt: skip
        kind = ScriptedTrainer if scripted else OmniGRPOTrainer
        data = lazily(data) if isinstance(data, list) else data
        eval_data = lazily(eval_data) if isinstance(eval_data, list) else eval_data
        return kind(model or tiny_checkpoint, reward, config(**settings), data, eval_data, **(extra or {}))

    return make
