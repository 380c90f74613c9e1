"""The policy that an evaluation asks: a whole model, or an adapter on the model that it was trained on."""

from typing import Any

from peft import PeftConfig, PeftModel
from torch import nn
from transformers.utils import find_adapter_config_file

from omnirl_core.models import load_policy


def load_trained(path: str, **model_init_kwargs: Any) -> nn.Module:
    """What a run has saved or started from: a whole model, or a LoRA adapter on the model that it was trained on."""
    base = adapter_base(path, model_init_kwargs.get("revision"))
    if base is None:
        return load_policy(path, **model_init_kwargs)
    model_init_kwargs.pop("revision", None)  # the adapter's, not the base model's
    return PeftModel.from_pretrained(load_policy(base, **model_init_kwargs), path)


def adapter_base(path: str, revision: str | None = None) -> str | None:
    """The model that the LoRA adapter in this folder or hub repository belongs to; None for a whole model."""
    if find_adapter_config_file(path, revision=revision) is None:
        return None
    return PeftConfig.from_pretrained(path, revision=revision).base_model_name_or_path
