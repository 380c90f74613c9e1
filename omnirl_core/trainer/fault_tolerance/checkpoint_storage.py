"""Files of checkpoints: published whole or not at all, and what transformers restores not."""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    ADAPTER_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

UNFINISHED = "unfinished"
"""Folder in a run's folder that a checkpoint is written in. No `checkpoint-*`: transformers takes those for whole."""
CONTENTS = "contents.json"
"""File of a checkpoint that names its other files with their sizes in bytes; written last."""
STATE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")


class SpaceError(OSError):
    """A file of the run could not be written; names the path and the space."""


def write_error(path: str | os.PathLike[str], error: Exception) -> Exception:
    """What to raise where `error` kept `path` from being written.

    A SpaceError with the free space where the disk is full, an OSError that names the path for what else the system
    refused, and any other error as it is: it is not about the disk.
    """
    # a disk, a quota or a file's limit is full; safetensors and torch say so in words
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    words = [*map(os.strerror, full), *(f"os error {number})" for number in full), "file write failed"]
    if getattr(error, "errno", None) in full or any(said in str(error) for said in words):
        folder = Path(path)
        while not folder.exists():
            folder = folder.parent
        space = shutil.disk_usage(folder)
        return SpaceError(
            errno.ENOSPC,
            f"could not write {path}: {error}; {space.free / 1e9:.3g} of {space.total / 1e9:.3g} GB are free there. "
            "Checkpoints written before are untouched: make space, or set save_total_limit, and resume with "
            "--resume_from_checkpoint auto",
        )
    safe = "checkpoints written before are untouched: resume with --resume_from_checkpoint auto"
    if isinstance(error, OSError):
        return OSError(error.errno or errno.EIO, f"could not write {path}: {error}; {safe}")
    error.add_note(f"While {path} was written; {safe}")
    return error


def publish(written: Path, final: Path) -> None:
    """Give a checkpoint its name, once all of it is on the disk; no other process sees half of it.

    The files are synced first, so that not even a machine that loses power keeps the name without the content.
    """
    sizes = {}
    for path in sorted(path for path in written.rglob("*") if path.is_file()):
        sizes[str(path.relative_to(written))] = path.stat().st_size
        _sync(path)
    contents = written / CONTENTS
    contents.write_text(json.dumps({"files": sizes}, indent=1) + "\n", encoding="utf-8")
    _sync(contents)
    _sync(written)
    if final.exists():  # an earlier process went further, and this run was resumed from before
        final.replace(written.with_name("replaced"))
    written.replace(final)
    _sync(final.parent)
    shutil.rmtree(written.parent, ignore_errors=True)


def abandon_later(run_folder: str | os.PathLike[str], step: int) -> None:
    """Rename checkpoints of more steps to `abandoned-checkpoint-*`: a run that goes on from `step` is another run.

    Kept, they would be deleted last and resumed first.
    """
    for later, path in numbered_checkpoints(run_folder):
        if later > step:
            abandoned = path.with_name(f"abandoned-{path.name}")
            shutil.rmtree(abandoned, ignore_errors=True)
            path.replace(abandoned)


def numbered_checkpoints(run_folder: str | os.PathLike[str]) -> list[tuple[int, Path]]:
    """(steps, path) of what is named as a checkpoint, whole or not."""
    named = [(_NAME.fullmatch(path.name), path) for path in Path(run_folder).glob("checkpoint-*")]
    return [(int(match[1]), path) for match, path in named if match]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- weights -----------------------------------------------------------------------------------------------------

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


# -- the reference model of sync_ref_model -----------------------------------------------------------------------

REFERENCE = "reference.safetensors"
"""File of a checkpoint; its parameters under the module's own names, tied ones once."""


def save_reference(model: nn.Module, path: Path, writes: bool) -> None:
    """Write every parameter; a collective under ZeRO-3 and FSDP2, of which the ranks that `writes` names write."""
    values = {}
    for name, parameter in model.named_parameters():
        with _whole(parameter) as value:
            if writes:
                values[name] = value.detach().to("cpu", copy=True).contiguous()
    if writes:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(values, path, metadata={"format": "pt"})


def restore_reference(model: nn.Module, path: Path) -> None:
    """Copy every parameter into the model, each rank its part; ValueError where names or shapes differ."""
    parameters = dict(model.named_parameters())
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        if names != set(parameters):
            raise ValueError(
                f"{path} is not of this reference model: {sorted(names ^ set(parameters))[:3]} are in one of them only"
            )
        for name, parameter in parameters.items():
            with _whole(parameter, changes=True) as value, torch.no_grad():
                saved = file.get_tensor(name)
                if saved.shape != value.shape:
                    raise ValueError(f"{path}: {name} has shape {(*saved.shape,)}, the model {(*value.shape,)}")
                if isinstance(parameter, DTensor):
                    saved = saved.to(parameter.device, parameter.dtype)
                    saved = distribute_tensor(saved, parameter.device_mesh, parameter.placements)
                    parameter.copy_(saved)
                else:
                    value.copy_(saved)


@contextmanager
def _whole(parameter: nn.Parameter, changes: bool = False) -> Iterator[torch.Tensor]:
    """The parameter with all of its values on every rank; what is written to it stays where it `changes`."""
    if isinstance(parameter, DTensor):  # FSDP2
        yield parameter.full_tensor()
    elif hasattr(parameter, "ds_id"):  # ZeRO-3
        zero = import_module("deepspeed").zero
        with zero.GatheredParameters([parameter], modifier_rank=0 if changes else None):
            yield parameter
    else:
        yield parameter
