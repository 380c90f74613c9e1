"""What a run by vLLM is checked for: whether it takes images of the model's family, and which dtype it computes in."""

import logging
from typing import TYPE_CHECKING, Any, Protocol

from accelerate import Accelerator
from torch import nn
from transformers import PretrainedConfig

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer


logger = logging.getLogger(__name__)

_AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}


class Computes(Protocol):
    """What is read of a trainer, or of TRL's rollout by vLLM."""

    @property
    def accelerator(self) -> Accelerator: ...
    @property
    def model(self) -> nn.Module: ...


def compute_dtype(trainer: Computes) -> str:
    """The dtype that the trainer's own pass computes in: the autocast's where there is one, else the weights'."""
    return _AUTOCAST.get(trainer.accelerator.mixed_precision) or _name(trainer.model.dtype)


def note_vllm_dtype(trainer: "OmniGRPOTrainer") -> None:
    """Log both dtypes of a trainer that TRL has made; nothing without vLLM, or where it does not tell its own.

    A colocated engine is made in the policy's. A server has been started in one, by default the checkpoint's; in
    bfloat16 beside a policy in float32, importance ratios are .96 to 1.07 instead of 1.
    """
    if not trainer.use_vllm or not trainer.accelerator.is_main_process:
        return
    engine, policy = _engine_dtype(trainer.vllm_generation), compute_dtype(trainer)
    if engine is None:
        return
    where = "server" if trainer.vllm_mode == "server" else "engine"
    if engine != policy:
        fix = "start it with --dtype" if where == "server" else "have both compute in"
        logger.warning(
            "use_vllm: the %s computes in %s and the policy in %s, so that their log-probabilities differ; %s %s",
            where, engine, policy, fix, policy,
        )  # fmt: skip
        return
    logger.info("use_vllm: the %s computes in %s, as the policy does", where, engine)
    if engine == "float32" and not trainer.args.use_cpu:
        logger.warning(
            "use_vllm: %s and policy compute in float32, at twice the memory of bfloat16; set bf16: true",
            where,
        )


def _engine_dtype(generation: Any) -> str | None:
    llm = getattr(generation, "llm", None)
    if llm is not None:
        return _name(llm.model_config.dtype)
    client = getattr(generation, "vllm_client", None)
    found = None if client is None else client.get_server_info()["model_config"].get("dtype")
    return None if found is None else _name(found)


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Values of `model_type` whose images vLLM 0.31 was seen to answer as transformers does."""


def vllm_obstacle(config: PretrainedConfig) -> str | None:
    """Why images of a model with this configuration cannot go to vLLM; None where they can.

    >>> from transformers import Gemma3Config, Qwen2_5_VLConfig
    >>> vllm_obstacle(Qwen2_5_VLConfig()), vllm_obstacle(Gemma3Config())[:31]
    (None, 'use_vllm: true with images of g')
    """
    model_type = config.model_type
    if model_type == "qwen3_vl" and not config.text_config.rope_parameters.get("mrope_interleaved"):
        # transformers 5.24 interleaves whatever the configuration says, vLLM 0.31 where it says so
        return (
            "use_vllm: true with images: vLLM would place them otherwise than transformers; set use_vllm: false, or "
            "mrope_interleaved: true in rope_parameters of its text configuration, as Qwen's checkpoints have it"
        )
    if model_type in FAMILIES:
        return None
    return (
        f"use_vllm: true with images of {model_type}: vLLM was not seen to answer them as transformers does, "
        f"only those of {', '.join(FAMILIES)}; set use_vllm: false"
    )
