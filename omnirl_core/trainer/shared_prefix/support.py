"""Which runs share prefixes: what was verified does, everything else takes the plain path."""

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

import transformers
from accelerate.utils import DistributedType
from peft import LoraConfig
from torch import nn
from transformers.generation.configuration_utils import GenerationMode

from omnirl_core.models import base_model

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer


VERIFIED_CLASSES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
}
"""`model_type` and class in transformers of what is held to the plain forward by tests."""
VERIFIED_FAMILIES = tuple(VERIFIED_CLASSES)
VERIFIED_LORA = {
    "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "bias", "use_rslora", "use_dora",
    "modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
}  # fmt: skip
"""Settings of LoRA that may differ from their defaults: its update of a token depends on that token alone."""
_NOT_COMPUTED = {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
                 "inference_mode", "fan_in_fan_out", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
                 "runtime_config"}  # fmt: skip
"""Settings that say where the adapter comes from or how it starts, not what it computes."""
VERIFIED_ENGINES = (
    DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.DEEPSPEED,
)  # fmt: skip


def family_obstacle(model: nn.Module) -> str | None:
    """Why this model's forward cannot run packs; None if it can."""
    base = base_model(model)
    config: Any = base.config
    text_config = config.get_text_config()
    if config.model_type not in VERIFIED_CLASSES:
        return f"family {config.model_type!r} is not verified (verified: {', '.join(VERIFIED_FAMILIES)})"
    verified = VERIFIED_CLASSES[config.model_type]
    if type(base) is not getattr(transformers, verified):
        return f"{type(base).__module__}.{type(base).__name__} is not transformers' {verified}, which is verified"
    if text_config._attn_implementation != "sdpa":
        return f"attn_implementation is {text_config._attn_implementation!r}, not 'sdpa'"
    if "sliding_attention" in (getattr(text_config, "layer_types", None) or ()):
        return "the model has layers of sliding-window attention"
    if len(set((getattr(base, "hf_device_map", None) or {}).values())) > 1:
        return "the model is split across devices"
    return None


def adapter_obstacle(model: nn.Module) -> str | None:
    """Why the model's adapters are not known to work with packs; None if they are, or if there are none."""
    for config in getattr(model, "peft_config", {}).values():
        if type(config) is not LoraConfig:
            return f"adapters by {type(config).__name__} are not verified (verified: LoraConfig)"
        if changed := sorted(_changed(config) - VERIFIED_LORA - _NOT_COMPUTED):
            return f"LoRA with {', '.join(changed)} is not verified"
    return None


def _changed(config: LoraConfig) -> set[str]:
    """Settings that are not at their defaults."""
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(config)
    }
    return {name for name, default in defaults.items() if getattr(config, name) != default}


def training_obstacle(trainer: "OmniGRPOTrainer") -> str | None:
    """Why a trainer's log-probability passes cannot be packed; None if they can."""
    args, model = trainer.args, trainer.model
    config: Any = base_model(model).config
    text_config = config.get_text_config()
    engine = trainer.accelerator.distributed_type
    is_parallel = getattr(trainer.accelerator, "parallelism_config", None) is not None
    obstacles = {
        "tools or an environment write into the completions": trainer.tools or trainer.environment_factories,
        "a rollout_func makes the prompts": trainer.rollout_func is not None,
        "the model has a router loss": trainer.aux_loss_enabled,
        "torch_compile is on": args.torch_compile,
        "Liger kernels are on": args.use_liger_kernel,
        "a sequence is split across devices": is_parallel,
        f"{engine.value} is not verified": engine not in VERIFIED_ENGINES,
        "attention has dropout": not args.disable_dropout and getattr(text_config, "attention_dropout", None),
    }
    found = next((reason for reason, is_there in obstacles.items() if is_there), None)
    return family_obstacle(model) or adapter_obstacle(model) or found


def rollout_obstacle(trainer: "OmniGRPOTrainer") -> str | None:
    """Why a run that packs its passes cannot prefill prompts once itself; None if it can."""
    if trainer.use_vllm:
        return "vLLM generates, with its own prefix cache"
    if trainer.use_transformers_continuous_batching:
        return "transformers' continuous batching generates, with its own prefix cache"
    config = trainer.generation_config
    if config.get_generation_mode() not in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH):
        return f"generation mode is {config.get_generation_mode().value}"
    if (config.num_return_sequences or 1) > 1:
        return "num_return_sequences is above 1"
    if config.cache_implementation is not None or config.use_cache is False or config.prefill_chunk_size:
        return "generation settings ask for another cache"
    return None
