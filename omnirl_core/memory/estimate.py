"""The peak of one device, part by part: `estimate_memory` gives a `MemoryEstimate` of bytes.

What it is checked against, and how closely it agrees, is in docs/memory.md; figures of GPUs were not measured.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from peft import PeftConfig
from torch import nn
from trl import ModelConfig, get_peft_config

from omnirl_core.memory.model_size import Parameters, kept_by_block, kept_by_layer, meta_model, text_layers
from omnirl_core.memory.workload import Prompt, Workload
from omnirl_core.models import base_model, vision_tower, without_vision
from omnirl_core.trainer import OmniGRPOConfig
from omnirl_core.trainer.shared_prefix_attention import Span
from omnirl_core.trainer.shared_prefix_support import family_obstacle

HEAD_TOKENS, HEAD_COLUMNS = 4096, 32_768
"""Tile of TRL 1.16's chunked log-probabilities (trl/kernels/chunked_logprob.py)."""
CPU_TILES = 4
"""Float32 copies of a tile that the same without Triton holds at once."""
STATE_BYTES = {"8bit": 2, "sgd": 0, "adafactor": 1}
"""Bytes of optimizer state a trainable parameter, by a part of the optimizer's name; otherwise Adam's two floats."""


@dataclass(frozen=True)
class Cluster:
    """How many devices share the run, and DeepSpeed's ZeRO stage (0: plain data parallel)."""

    num_processes: int = 1
    zero_stage: int = 0
    offload: bool = False
    """Optimizer states, and with stage 3 the parameters, in the host's memory."""

    def share(self, size: float, from_stage: int) -> int:
        """Of a size that is split among the devices from that stage on."""
        return int(size / (self.num_processes if self.zero_stage >= from_stage else 1))


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device. `peak` is not the sum: rollout, forward and optimizer step follow each other."""

    weights: int
    reference: int
    optimizer: int
    gradients: int
    activations: int
    head: int
    """Tiles of logits, and the head's gradient while it is accumulated."""
    kv_cache: int
    rollout: int
    """What a decoding step and the prefill hold besides: logits, one layer, gathered weights."""
    inputs: int
    communication: int
    accumulates: bool
    host: int = 0
    """Bytes in the host's memory, of one process, that were offloaded."""

    @property
    def held(self) -> int:
        """What is there all the time, from the second step on."""
        return self.weights + self.reference + self.optimizer + self.inputs + self.communication

    @property
    def rollout_peak(self) -> int:
        return self.held + self.kv_cache + self.rollout

    @property
    def training_peak(self) -> int:
        """Gradients grow while activations go, unless those of an earlier micro-batch are there already."""
        working = self.activations + self.head
        return self.held + (self.gradients + working if self.accumulates else max(working, self.gradients))

    @property
    def peak(self) -> int:
        return max(self.rollout_peak, self.training_peak)

    def parts(self) -> dict[str, int]:
        """The parts by name, without flags."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "accumulates"}


def estimate_memory(
    training: OmniGRPOConfig,
    model: ModelConfig,
    config: Any,
    prompt: Prompt,
    *,
    bf16: bool = True,
    cluster: Cluster = Cluster(),
    on_gpu: bool = True,
) -> MemoryEstimate:
    """Peak memory of one device in a run with these settings, from `model_config(...)`; no weight is read.

    `prompt` is the longest prompt (`Prompt.of_pixels`). `bf16` is mixed precision, as TRL has it by default;
    `model.dtype` is what the weights are kept in. The estimate holds from the second step on, when the optimizer
    has its states.
    """
    dtype = _dtype(model.dtype, config)
    peft_config = get_peft_config(model)
    if peft_config is not None and training.freeze_vision_tower:
        peft_config = without_vision(peft_config)
    compute = torch.bfloat16 if bf16 else dtype
    with_adapter = meta_model(
        config, compute, model.attn_implementation, peft_config, training.freeze_vision_tower
    )
    parameters = Parameters.of(with_adapter)
    shared = training.shared_prefix != "off" and family_obstacle(base_model(with_adapter)) is None
    work = Workload.of(training, prompt, shared)
    kept = _Kept.of(with_adapter, work, bool(training.gradient_checkpointing))
    weights = _weights(parameters, dtype, compute, model)
    optimizer = _optimizer(parameters, training, dtype, peft_config, cluster, bf16)
    gradients = parameters.trainable * _gradient_bytes(dtype, peft_config, cluster, bf16)
    casts = _autocast_copies(parameters, dtype, compute)
    offloaded = cluster.offload and cluster.zero_stage > 0
    on_device = 0 if offloaded else cluster.share(optimizer, 1)
    shard = 0 if offloaded and cluster.zero_stage == 3 else cluster.share(weights, 3)
    return MemoryEstimate(
        weights=shard + (2 * parameters.largest_layer * compute.itemsize if cluster.zero_stage == 3 else 0),
        reference=shard if training.beta and peft_config is None else 0,
        optimizer=on_device,
        gradients=cluster.share(gradients, 2),
        activations=kept.training + casts,
        head=_head(parameters, work, compute, config.get_text_config().vocab_size, on_gpu),
        kv_cache=_kv_cache(config.get_text_config(), work, compute),
        rollout=kept.forward
        + _logits(config.get_text_config(), work)
        + _gathered(weights, cluster, training)
        + casts,
        inputs=kept.inputs,
        communication=gradients if cluster.num_processes > 1 and cluster.zero_stage == 0 else 0,
        accumulates=work.accumulates,
        host=cluster.share(optimizer, 1) + (cluster.share(weights, 3) if cluster.zero_stage == 3 else 0)
        if offloaded
        else 0,
    )


@dataclass(frozen=True)
class _Kept:
    """Bytes kept for backward, held by a pass without gradients, and of the pictures' pixels."""

    training: int
    forward: int
    inputs: int

    @classmethod
    def of(cls, model: nn.Module, work: Workload, checkpointing: bool) -> "_Kept":
        layers = len(text_layers(model))
        text = base_model(model).config.get_text_config()  # type: ignore[union-attr, operator]
        size = next(p.dtype.itemsize for p in base_model(model).parameters())
        rows = work.prompts(work.rows)
        if work.shared:
            span = Span(0, work.prompt.tokens, (work.completion,) * min(work.group, work.rows))
            layer = rows * kept_by_layer(model, span.end, (span,))
        else:
            layer = rows * kept_by_layer(model, work.prompt.tokens + work.completion)
        stream = work.tokens * text.hidden_size * size
        blocks, per_block, patch_inputs, block_stream = _vision(model, work, rows, size)
        if checkpointing:
            training = layers * stream + layer + blocks * block_stream + per_block
        else:
            training = layers * layer + blocks * per_block
        prefill = work.prompts(work.rollout_rows)
        forward = prefill * kept_by_layer(model, work.prompt.tokens)
        return cls(training + 2 * stream, forward, patch_inputs)


def _vision(model: nn.Module, work: Workload, rows: int, size: int) -> tuple[int, int, int, int]:
    """(blocks, bytes that one keeps, bytes of pixels, bytes between blocks) over the pictures of a micro-batch."""
    tower: Any = vision_tower(model)
    if tower is None or not work.prompt.image_tokens:
        return 0, 0, 0, 0
    config = tower.config
    patches = work.prompt.image_tokens * config.spatial_merge_size**2
    width = getattr(config, "embed_dim", None) or config.hidden_size
    numbers = config.patch_size**2 * config.temporal_patch_size * 3
    pixels = work.prompts(work.rollout_rows) * patches * numbers * 4
    trains = any(p.requires_grad for p in tower.parameters())
    return (
        len(tower.blocks),
        rows * kept_by_block(model, patches),
        pixels,
        rows * patches * width * size * trains,
    )


def _dtype(name: str | None, config: Any) -> torch.dtype:
    found = getattr(config, "dtype", None) if name == "auto" else getattr(torch, name or "float32")
    return found if isinstance(found, torch.dtype) else torch.bfloat16 if name == "auto" else torch.float32


def _weights(
    parameters: Parameters,
    dtype: torch.dtype,
    compute: torch.dtype,
    model: ModelConfig,
    peft: PeftConfig | None,
) -> int:
    adapter = parameters.adapter * (2 if model.load_in_4bit or model.load_in_8bit else 4)
    if (
        model.load_in_4bit
    ):  # nf4: half a byte, and a float for every 64 (with double quantisation a byte and a bit)
        scales = 1 / 64 + 4 / 64 / 256 if model.use_bnb_nested_quant else 4 / 64
        return int(parameters.quantized * (0.5 + scales)) + _rest(parameters) * compute.itemsize + adapter
    if model.load_in_8bit:
        return parameters.quantized + _rest(parameters) * 2 + adapter
    return parameters.base * dtype.itemsize + adapter


def _rest(parameters: Parameters) -> int:
    return parameters.base - parameters.quantized


def _optimizer(
    parameters: Parameters,
    training: OmniGRPOConfig,
    dtype: torch.dtype,
    peft: PeftConfig | None,
    cluster: Cluster,
    bf16: bool,
) -> int:
    name = str(getattr(training.optim, "value", training.optim))
    size = next((size for part, size in STATE_BYTES.items() if part in name), None)
    trained = 4 if peft is not None else dtype.itemsize
    states = parameters.trainable * (2 * trained if size is None else size)
    if cluster.zero_stage and bf16:  # DeepSpeed keeps fp32 masters and states beside bf16 weights
        states = parameters.trainable * (4 + (8 if size is None else size))
    return states


def _gradient_bytes(dtype: torch.dtype, peft: PeftConfig | None, cluster: Cluster, bf16: bool) -> int:
    if cluster.zero_stage and bf16:
        return 2
    return 4 if peft is not None else dtype.itemsize


def _autocast_copies(parameters: Parameters, dtype: torch.dtype, compute: torch.dtype) -> int:
    """Autocast keeps a copy of every float32 weight in the dtype it computes in, until the backward pass is over."""
    return parameters.quantized * compute.itemsize if dtype != compute and dtype == torch.float32 else 0


def _head(parameters: Parameters, work: Workload, compute: torch.dtype, vocabulary: int, on_gpu: bool) -> int:
    """A tile of logits (without Triton's kernel a few float32 copies of it), and gradients in float32."""
    rows = min(work.scored, HEAD_TOKENS)
    columns = min(HEAD_COLUMNS, vocabulary)
    tile = rows * HEAD_COLUMNS * compute.itemsize if on_gpu else rows * columns * 4 * CPU_TILES
    hidden = 4 * work.scored * parameters.head // vocabulary
    return tile + hidden + (4 * parameters.head if parameters.head_trains else 0)


def _kv_cache(config: Any, work: Workload, compute: torch.dtype) -> int:
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size * compute.itemsize
    prompts = work.prompts(work.rollout_rows) * work.prompt.tokens
    return token * (prompts + work.rollout_rows * work.completion)


def _logits(config: Any, work: Workload) -> int:
    """Of one decoding step: as computed, in float32, scaled, and as probabilities."""
    return 4 * 4 * work.rollout_rows * config.vocab_size


def _gathered(weights: int, cluster: Cluster, training: OmniGRPOConfig) -> int:
    """ZeRO-3 gathers the whole model to generate, unless `ds3_gather_for_generation: false`."""
    gathers = cluster.zero_stage == 3 and cluster.num_processes > 1 and training.ds3_gather_for_generation
    return weights if gathers else 0
