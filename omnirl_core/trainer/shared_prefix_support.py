"""Which runs can share prefixes: the families that were verified, and what stands in the way."""

from typing import Any

from peft import PromptLearningConfig
from transformers.generation.configuration_utils import GenerationMode

from omnirl_core.models import base_model

VERIFIED_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2", "qwen3", "llama")
"""`model_type` of those that tests/trainer/test_shared_prefix.py holds to the plain forward."""


def family_obstacle(model: Any) -> str | None:
    """Why this model's forward cannot run packs; None if it can."""
    config: Any = base_model(model).config
    text_config = config.get_text_config()
    if config.model_type not in VERIFIED_FAMILIES:
        return f"family {config.model_type!r} is not verified (verified: {', '.join(VERIFIED_FAMILIES)})"
    if text_config._attn_implementation != "sdpa":
        return f"attn_implementation is {text_config._attn_implementation!r}, not 'sdpa'"
    if "sliding_attention" in (getattr(text_config, "layer_types", None) or ()):
        return "the model has layers of sliding-window attention"
    return None


def training_obstacle(trainer: Any) -> str | None:
    """Why a trainer's log-probability passes cannot be packed; None if they can."""
    args, model = trainer.args, trainer.model
    config: Any = base_model(model).config
    text_config = config.get_text_config()
    is_parallel = getattr(trainer.accelerator, "parallelism_config", None) is not None
    obstacles = {
        "tools or an environment write into the completions": trainer.tools or trainer.environment_factories,
        "a rollout_func makes the prompts": trainer.rollout_func is not None,
        "the model has a router loss": trainer.aux_loss_enabled,
        "torch_compile is on": args.torch_compile,
        "Liger kernels are on": args.use_liger_kernel,
        "a sequence is split across devices": is_parallel,
        "parameters are sharded by FSDP, where it is not verified": trainer.is_fsdp_enabled,
        "the adapter learns a prompt of its own": any(
            isinstance(config, PromptLearningConfig) for config in getattr(model, "peft_config", {}).values()
        ),
        "attention has dropout": not args.disable_dropout and getattr(text_config, "attention_dropout", None),
    }
    return family_obstacle(model) or next((reason for reason, found in obstacles.items() if found), None)


def rollout_obstacle(trainer: Any) -> str | None:
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
