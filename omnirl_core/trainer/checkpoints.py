"""Weights back from a checkpoint of full fine-tuning."""

import os
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

_FILES = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)


def has_full_weights(folder: str | os.PathLike[str] | None) -> bool:
    """Whether the folder holds a whole model, not only an adapter."""
    return folder is not None and any(os.path.isfile(os.path.join(folder, name)) for name in _FILES)


def restore_weights(model: PreTrainedModel, folder: str | os.PathLike[str]) -> None:
    """Load the checkpoint into the model, every parameter or an error.

    A checkpoint stores a vision-language model under its hub names (`visual.*`), a Trainer of transformers 5.23
    loads it under the module's names (`model.visual.*`), not strictly, and so restores nothing
    (huggingface/transformers#43701). `from_pretrained` knows both.
    """
    loaded, info = type(model).from_pretrained(
        folder, config=model.config, dtype=model.dtype, output_loading_info=True
    )
    absent = sorted(info["missing_keys"])
    if absent or info["unexpected_keys"]:
        raise ValueError(
            f"{folder} is not a checkpoint of this {type(model).__name__}: {len(absent)} weights missing "
            f"{absent[:3]}, {len(info['unexpected_keys'])} unknown {sorted(info['unexpected_keys'])[:3]}"
        )
    copy_weights(loaded, model)


def copy_weights(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Every parameter and buffer of the source into the target, exactly."""
    state: dict[str, Any] = source.state_dict()
    target.load_state_dict(state, strict=True)
