"""What a resumed run needs besides what transformers restores: its weights, and the order of its rows."""

import os
from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import PreTrainedModel
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    ADAPTER_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

_FULL = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
_SAFE = (*_FULL, ADAPTER_SAFE_WEIGHTS_NAME)
_PICKLED = (WEIGHTS_NAME, WEIGHTS_INDEX_NAME, ADAPTER_WEIGHTS_NAME)


def has_full_weights(folder: str | os.PathLike[str] | None) -> bool:
    """Whether the folder holds a whole model, not only an adapter."""
    return folder is not None and _first_of(_FULL, folder) is not None


def pickled_weights(folder: str | os.PathLike[str]) -> str | None:
    """What to say of a folder whose weights are pickles only, which are not read; None for any other folder.

    A pickle can run code when it is read; safetensors cannot.
    """
    pickled = _first_of(_PICKLED, folder)
    if pickled is None or _first_of(_SAFE, folder) is not None:
        return None
    return (
        f"{os.fspath(folder)} has its weights in {pickled}, a pickle, which can run code when it is read; "
        "save them as safetensors (save_pretrained does) on a machine that trusts them"
    )


def _first_of(names: Iterable[str], folder: str | os.PathLike[str]) -> str | None:
    return next((name for name in names if os.path.isfile(os.path.join(folder, name))), None)


def restore_weights(model: PreTrainedModel, folder: str | os.PathLike[str] | None) -> None:
    """Load the checkpoint into the model, every parameter or an error.

    A checkpoint stores a vision-language model under its hub names (`visual.*`), a Trainer of transformers 5.23
    loads it under the module's names (`model.visual.*`), not strictly, and so restores nothing
    (huggingface/transformers#43701). `from_pretrained` knows both. It takes one dtype: that which holds the values of
    every parameter, each of which is then copied to its own (`cast_lm_head_to_fp32` leaves some in another).
    """
    load: Any = type(model).from_pretrained
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    widest = reduce(torch.promote_types, dtypes)
    loaded, info = load(folder, config=model.config, dtype=widest, output_loading_info=True)
    absent = sorted(info["missing_keys"])
    if absent or info["unexpected_keys"]:
        raise ValueError(
            f"{folder} is not a checkpoint of this {type(model).__name__}: {len(absent)} weights missing "
            f"{absent[:3]}, {len(info['unexpected_keys'])} unknown {sorted(info['unexpected_keys'])[:3]}"
        )
    model.load_state_dict(loaded.state_dict(), strict=True)


class EpochSampler(Sampler[int]):
    """TRL's RepeatSampler, which shuffles anew each epoch, told which epoch it is in.

    TRL 1.16's own always begins with the first epoch's order, so that a run resumed in its second epoch would
    draw other rows than the uninterrupted one. An uninterrupted run draws what it draws with TRL.
    """

    def __init__(self, sampler: Any):
        self.sampler = sampler

    def __iter__(self) -> Iterator[int]:
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer, through accelerate's loader, before each epoch."""
        generator = getattr(self.sampler, "generator", None)  # none where rows are not shuffled
        if generator is None or self.sampler.seed is None:
            return
        generator.manual_seed(self.sampler.seed)
        for _ in range(epoch):
            torch.randperm(self.sampler.num_samples, generator=generator)
