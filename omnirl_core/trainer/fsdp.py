"""Which engine runs the ranks, and what FSDP2 needs besides what accelerate and TRL do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

_GATHER = "_gather_for_generation"


def engine_of(trainer: "OmniGRPOTrainer") -> str:
    """`cpu` for one process, `ddp`, `zero2`, `zero3`, `zero3_offload`, `fsdp1` or `fsdp2`."""
    plugin = trainer.args.deepspeed_plugin
    if plugin is not None:
        offload = plugin.deepspeed_config["zero_optimization"].get("offload_param") or {}
        return f"zero{plugin.zero_stage}{'_offload' if offload.get('device') == 'cpu' else ''}"
    if trainer.is_fsdp_enabled:
        return f"fsdp{trainer._dist.fsdp_version}"
    return "ddp" if trainer.accelerator.num_processes > 1 else "cpu"


def refuse_early_evaluation(trainer: "OmniGRPOTrainer", trains: bool = False) -> None:
    """ValueError where an engine does not take `evaluate()` before `train()`; it says what to do instead.

    FSDP2 and ZeRO-2 cannot evaluate before. ZeRO-3 can, and cannot train after it, which is told when `trains`.
    """
    if trains:
        refused = trainer.deepspeed is not None and trainer.deepspeed.basic_optimizer is None
    else:
        needs_optimizer = trainer.engine == "fsdp2" and not _parts(trainer.model)
        refused = needs_optimizer or (trainer.engine == "zero2" and trainer.deepspeed is None)
    if refused:
        raise ValueError(
            f"evaluate() before train() is not supported under {trainer.engine}, which accelerate sets up for training "
            "together with the optimizer; set eval_on_start: true instead, or evaluate after train()"
        )


@contextmanager
def gathered_for_generation(model: nn.Module) -> Iterator[None]:
    """Whole weights on every process; nothing is done to a model that FSDP2 does not shard.

    TRL 1.16 generates from sharded weights, which every layer gathers for every token: processes whose completions
    end sooner leave the others waiting for ever, and one with images runs other layers first than one without
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    if not hasattr(model, _GATHER):  # FSDP2 wants the root to run first; so it does at any forward method
        setattr(model, _GATHER, lambda: _gather(model))
        register_fsdp_forward_method(model, _GATHER)
    getattr(model, _GATHER)()
    resharding = [(group, group.post_forward_mesh_info) for group in _groups(model)]
    model.set_reshard_after_forward(False)
    try:
        yield
    finally:
        for group, mesh in resharding:
            group.post_forward_mesh_info = mesh
        for module in _parts(model):
            module.reshard()


@contextmanager
def trainable_after_reference(model: nn.Module) -> Iterator[None]:
    """What is trainable before stays so.

    PEFT 0.21 stops and restarts the training of adapters around a pass without them, TRL's reference for LoRA.
    FSDP2 swaps sharded and whole parameters meanwhile, so that of some only the whole ones restart: adapters
    outside the layers, such as the vision merger's, would never be trained again.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    for module in _parts(model):
        module.reshard()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _gather(model: nn.Module) -> None:
    with torch.no_grad():
        for module in _parts(model):
            module.unshard()


def _parts(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _groups(model: nn.Module) -> list[Any]:
    """What shares its weights out together. torch 2.14 has a setter of its resharding and no getter."""
    states = {id(state): state for state in (module._get_fsdp_state() for module in _parts(model))}
    return [group for state in states.values() for group in state._fsdp_param_groups]
