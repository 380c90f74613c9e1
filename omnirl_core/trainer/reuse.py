"""A model that comes from an earlier trainer: a notebook cell run twice, the next stage of a curriculum, a copy."""

import inspect
from typing import Any

from torch import nn

from omnirl_core.models import base_model, is_adapted, unfreeze_vision_tower

_WRAPPERS = ("accelerate", "torch", "trl")
"""Packages that replace a model's forward on behalf of a trainer."""


def release(model: Any) -> None:
    """Undo what an earlier trainer left on the model; nothing is done to a model that none has had, or to a path.

    Its wrappers around `forward` would stay: autocast of a run in bf16 in one in float32, and, in a copy of the
    model, TRL's fused head, whose plain forward is that of the model it was made on. The vision tower trains again
    where the earlier trainer froze it (`freeze_vision_tower`).
    """
    if not isinstance(model, nn.Module):
        return
    for module in {id(m): m for m in (model, base_model(model))}.values():
        _unwrap_forward(module)
    unfreeze_vision_tower(model, is_adapted(model))


def _unwrap_forward(module: nn.Module) -> None:
    own = vars(module).get("forward")
    if own is not None and _is_wrapped_by_trainer(own, type(module).forward):
        del module.forward
        vars(module).pop("_original_forward", None)  # accelerate's note of it


def _is_wrapped_by_trainer(forward: Any, plain: Any) -> bool:
    """Whether nothing but a trainer's wrappers lies around the class's own forward."""
    function = getattr(forward, "__func__", forward)
    while function is not plain:
        if _module(function).partition(".")[0] not in _WRAPPERS:
            return False
        inner = None
        if inspect.isfunction(function):  # TRL 1.16's fused head names the class's forward as what it wraps
            inner = inspect.getclosurevars(function).nonlocals.get("original_forward")
        inner = getattr(function, "__wrapped__", None) if inner is None else inner
        function = getattr(inner, "__func__", inner)
    return True


def _module(function: Any) -> str:
    """Where a function, or a callable object, is written; `__module__` is that of what it wraps."""
    if inspect.isfunction(function):
        return str(function.__globals__["__name__"])
    return type(function).__module__
