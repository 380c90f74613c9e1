"""Which runs share prefixes: what was verified does, everything else takes the plain path."""

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import transformers
from accelerate.utils import DistributedType
from peft import LoraConfig
from torch import Tensor, nn
from transformers.generation.configuration_utils import GenerationMode
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from omnirl_core.models import base_model
from omnirl_core.trainer.shared_prefix.packing import PackMask, sliding_window
from omnirl_core.trainer.shared_prefix.rollout import PrefixedKeys

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

FLASH = ("flash_attention_2", "flash_attention_3")
IMPLEMENTATIONS = ("sdpa", *FLASH)
"""`attn_implementation`s under which packs run."""
VERIFIED_CLASSES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
    "glm4v": "Glm4vForConditionalGeneration",
    "internvl": "InternVLForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "mistral3": "Mistral3ForConditionalGeneration",
    "idefics3": "Idefics3ForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
    "gemma3": "Gemma3ForConditionalGeneration",
    "gemma3_text": "Gemma3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
}
"""`model_type` and class in transformers of what is held to the plain forward by tests."""
VERIFIED_TEXT = ("qwen2", "qwen3", "llama", "mistral")
"""Language models inside families that take any: InternVL, LLaVA-NeXT, Mistral 3, Idefics3, SmolVLM."""
_ANY_TEXT = ("internvl", "llava_next", "mistral3", "idefics3", "smolvlm")
WINDOWED = ("gemma3", "gemma3_text", "qwen2", "qwen3")
"""Families whose layers of sliding-window attention were verified: they take a mask for each kind of layer."""
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
"""And FSDP2."""


def family_obstacle(model: nn.Module) -> str | None:
    """Why this model's forward cannot run packs; None if it can."""
    base = base_model(model)
    config: Any = base.config
    text_config = config.get_text_config()
    if config.model_type not in VERIFIED_CLASSES:
        return f"family {config.model_type!r} is not verified (verified: {', '.join(VERIFIED_CLASSES)})"
    verified = VERIFIED_CLASSES[config.model_type]
    if type(base) is not getattr(transformers, verified):
        return f"{type(base).__module__}.{type(base).__name__} is not transformers' {verified}, which is verified"
    if config.model_type in _ANY_TEXT and text_config.model_type not in VERIFIED_TEXT:
        return f"language model {text_config.model_type!r} is not verified (verified: {', '.join(VERIFIED_TEXT)})"
    if text_config._attn_implementation not in IMPLEMENTATIONS:
        return f"attn_implementation is {text_config._attn_implementation!r}, not one of {', '.join(IMPLEMENTATIONS)}"
    if _is_windowed(base) and config.model_type not in WINDOWED:
        return f"layers of sliding-window attention are not verified in {config.model_type!r}"
    if getattr(text_config, "use_bidirectional_attention", False):
        return "tokens see those after them (use_bidirectional_attention)"
    if len(set((getattr(base, "hf_device_map", None) or {}).values())) > 1:
        return "the model is split across devices"
    return None


def _is_windowed(base: Any) -> bool:
    """Mistral has one kind of layer, all of them with a window where its config names one."""
    text_config = base.config.get_text_config()
    return sliding_window(base) is not None or (
        text_config.model_type == "mistral" and text_config.sliding_window is not None
    )


def adapter_obstacle(model: nn.Module) -> str | None:
    """Why the model's adapters are not known to work with packs; None if they are, or if there are none."""
    for config in getattr(model, "peft_config", {}).values():
        if type(config) is not LoraConfig:
            return f"adapters by {type(config).__name__} are not verified (verified: LoraConfig)"
        plain = LoraConfig()
        changed = {one.name for one in fields(config) if getattr(config, one.name) != getattr(plain, one.name)}
        if changed := changed - VERIFIED_LORA - _NOT_COMPUTED:
            return f"LoRA with {', '.join(sorted(changed))} is not verified"
    return None


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
        f"{engine.value} is not verified": engine not in VERIFIED_ENGINES and trainer.engine != "fsdp2",
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
    if _is_windowed(base_model(trainer.model)):
        return "layers of sliding-window attention keep a part of the prompt only"
    config = trainer.generation_config
    if config.get_generation_mode() not in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH):
        return f"generation mode is {config.get_generation_mode().value}"
    if (config.num_return_sequences or 1) > 1:
        return "num_return_sequences is above 1"
    if config.cache_implementation is not None or config.use_cache is False or config.prefill_chunk_size:
        return "generation settings ask for another cache"
    return None


def take_packs(implementation: str) -> None:
    """Have transformers' function of this name hand packs, and keys held once a prompt, to SDPA's.

    All else goes to the kernel as before: the plain passes, the rollout, the vision tower. Of the process, not of one
    model, since models look the function up by its name, also when checkpointing runs a layer again.
    """
    plain = ALL_ATTENTION_FUNCTIONS[implementation]
    if implementation in FLASH and not isinstance(plain, _FlashOrPack):
        ALL_ATTENTION_FUNCTIONS[implementation] = _FlashOrPack(plain)


class _FlashOrPack:
    """An attention function of transformers that knows packs."""

    def __init__(self, flash: Callable[..., tuple[Tensor, Tensor | None]]):
        self.flash = flash

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **settings: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(attention_mask, PackMask):
            return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        if type(key) is PrefixedKeys:  # which knows its padding
            return sdpa_attention_forward(module, query, key, value, None, **settings)
        return self.flash(module, query, key, value, attention_mask, **settings)
