"""The reference model of `sync_ref_model`, which follows the policy, in a checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

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
                    raise ValueError(
                        f"{path}: {name} has shape {(*saved.shape,)}, the model {(*value.shape,)}"
                    )
                if isinstance(parameter, DTensor):
                    saved = distribute_tensor(
                        saved.to(parameter.device, parameter.dtype),
                        parameter.device_mesh,
                        parameter.placements,
                    )
                    parameter.copy_(saved)
                else:
                    value.copy_(saved)


@contextmanager
def _whole(parameter: nn.Parameter, changes: bool = False) -> Iterator[torch.Tensor]:
    """The parameter with all of its values on every rank; what is written to it stays where it `changes`."""
    if isinstance(parameter, DTensor):  # FSDP2
        yield parameter.full_tensor()
        return
    is_partitioned = hasattr(parameter, "ds_id")  # ZeRO-3
    gathered: Any = nullcontext()
    if is_partitioned:
        gathered = import_module("deepspeed").zero.GatheredParameters(
            [parameter], modifier_rank=0 if changes else None
        )
    with gathered:
        yield parameter
