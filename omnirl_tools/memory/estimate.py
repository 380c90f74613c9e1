"""The peak of one device, part by part: `estimate_memory` gives a `MemoryEstimate` of bytes.

How closely it agrees with measured peaks on a CPU is in benchmarks/RESULTS.md; of one H100 in benchmarks/gpu.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from trl import ModelConfig, get_peft_config

from omnirl_core.models import base_model, vision_tower, without_vision
from omnirl_core.trainer import OmniGRPOConfig
from omnirl_core.trainer.shared_prefix.packing import Span
from omnirl_core.trainer.shared_prefix.rollout import copies_prompts
from omnirl_core.trainer.shared_prefix.support import IMPLEMENTATIONS, family_obstacle
from omnirl_tools.memory.model_size import Parameters, kept_by_block, kept_by_layer, meta_model, text_layers
from omnirl_tools.memory.workload import Prompt, Workload

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
    fsdp: bool = False
    """FSDP2 shares out what stage 3 does, and keeps trained weights in float32 under mixed precision."""

    @property
    def stage(self) -> int:
        return 3 if self.fsdp else self.zero_stage

    @property
    def deepspeed(self) -> bool:
        return self.zero_stage > 0 and not self.fsdp

    def share(self, size: float, from_stage: int) -> int:
        """Of a size that is split among the devices from that stage on."""
        return int(size / (self.num_processes if self.stage >= from_stage else 1))


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
    config: PretrainedConfig,
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
    peft_config = get_peft_config(model)
    if peft_config is not None and training.freeze_vision_tower:
        peft_config = without_vision(peft_config)
    kinds = _Dtypes.of(model, config, cluster, bf16, peft_config is not None)
    shapes = meta_model(config, kinds.compute, model.attn_implementation, peft_config, training.freeze_vision_tower)
    parameters = Parameters.of(shapes)
    work = Workload.of(training, prompt, _shares_prefix(training, model, shapes))
    kept = _Kept.of(shapes, work, bool(training.gradient_checkpointing))
    text = config.get_text_config()
    weights = _weights(parameters, kinds, model)
    shard = cluster.share(weights, 3)
    optimizer = cluster.share(_optimizer(parameters, training, kinds, cluster), 1)
    gradients = parameters.trainable * kinds.gradient.itemsize
    casts = 0 if cluster.stage == 3 else _autocast_copies(parameters, kinds)
    layer = 2 * parameters.largest_layer * kinds.compute.itemsize if cluster.stage == 3 else 0
    on_host = (optimizer if cluster.offload and cluster.stage else 0) + (
        shard if cluster.offload and cluster.stage == 3 else 0
    )
    return MemoryEstimate(
        weights=(0 if cluster.offload and cluster.stage == 3 else shard) + layer,
        reference=shard if training.beta and peft_config is None else 0,
        optimizer=0 if cluster.offload and cluster.stage else optimizer,
        gradients=cluster.share(gradients, 2),
        activations=kept.training + casts,
        head=_head(parameters, work, kinds.compute, text.vocab_size, on_gpu),
        kv_cache=0 if training.use_vllm else _kv_cache(text, work, kinds.compute, on_gpu),
        rollout=0
        if training.use_vllm
        else kept.forward + _logits(text, work) + _gathered(parameters, kinds, cluster, training) + casts,
        inputs=kept.inputs,
        communication=gradients if cluster.num_processes > 1 and cluster.stage == 0 else 0,
        accumulates=work.accumulates,
        host=on_host,
    )


@dataclass(frozen=True)
class _Dtypes:
    """What weights are stored in, what a pass computes in, and what gradients are in."""

    stored: torch.dtype
    trained: torch.dtype
    compute: torch.dtype
    gradient: torch.dtype

    @classmethod
    def of(cls, model: ModelConfig, config: PretrainedConfig, cluster: Cluster, bf16: bool, adapts: bool) -> "_Dtypes":
        stored = _dtype(model.dtype, config)
        if cluster.deepspeed and bf16:  # the engine turns all into bf16, and keeps its own float32 weights
            return cls(*[torch.bfloat16] * 4)
        trained = torch.float32 if adapts or (cluster.fsdp and bf16) else stored
        return cls(
            trained if cluster.fsdp and not adapts else stored,
            trained,
            torch.bfloat16 if bf16 else stored,
            trained,
        )


def _shares_prefix(training: OmniGRPOConfig, model: ModelConfig, shapes: nn.Module) -> bool:
    if training.shared_prefix == "off" or model.attn_implementation not in (None, *IMPLEMENTATIONS):
        return False
    return family_obstacle(base_model(shapes)) is None


@dataclass(frozen=True)
class _Kept:
    """Bytes kept for backward, held by a pass without gradients, and of the images' pixels."""

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
    """(blocks, bytes that one keeps, bytes of pixels, bytes between blocks) over the images of a micro-batch."""
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


def _weights(parameters: Parameters, kinds: _Dtypes, model: ModelConfig) -> int:
    adapter = parameters.adapter * kinds.trained.itemsize
    rest = (parameters.base - parameters.quantized) * kinds.stored.itemsize
    if model.load_in_4bit:  # half a byte, and a float for every 64; double quantization: a byte and a bit
        scales = 1 / 64 + 4 / 64 / 256 if model.use_bnb_nested_quant else 4 / 64
        return int(parameters.quantized * (0.5 + scales)) + rest + adapter
    if model.load_in_8bit:
        return parameters.quantized + rest + adapter
    return parameters.base * kinds.stored.itemsize + adapter


def _optimizer(parameters: Parameters, training: OmniGRPOConfig, kinds: _Dtypes, cluster: Cluster) -> int:
    name = str(getattr(training.optim, "value", training.optim))
    size = next((size for part, size in STATE_BYTES.items() if part in name), None)
    if cluster.deepspeed and kinds.trained != torch.float32:  # float32 weights and states beside those in bf16
        return parameters.trainable * (4 + (8 if size is None else size))
    return parameters.trainable * (2 * kinds.trained.itemsize if size is None else size)


def _autocast_copies(parameters: Parameters, kinds: _Dtypes) -> int:
    """Autocast keeps a copy of every float32 weight in the dtype it computes in, until the backward pass is over."""
    return parameters.cast * kinds.compute.itemsize if kinds.stored != kinds.compute else 0


def _head(parameters: Parameters, work: Workload, compute: torch.dtype, vocabulary: int, on_gpu: bool) -> int:
    """A tile of logits (without Triton's kernel a few float32 copies of it), and gradients in float32."""
    rows = min(work.scored, HEAD_TOKENS)
    columns = min(HEAD_COLUMNS, vocabulary)
    tile = rows * HEAD_COLUMNS * compute.itemsize if on_gpu else rows * columns * 4 * CPU_TILES
    hidden = 4 * work.scored * parameters.head // vocabulary
    return tile + hidden + (4 * parameters.head if parameters.head_trains else 0)


def _kv_cache(config: PretrainedConfig, work: Workload, compute: torch.dtype, on_gpu: bool) -> int:
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size * compute.itemsize
    copied = token * work.rollout_rows * work.prompt.tokens
    device = torch.device("cuda" if on_gpu else "cpu")
    shared = token * work.prompts(work.rollout_rows) * work.prompt.tokens
    prompts = copied if copies_prompts(device, copied) else shared
    return prompts + token * work.rollout_rows * work.completion


def _logits(config: PretrainedConfig, work: Workload) -> int:
    """Of one decoding step: as computed, in float32, scaled, and as probabilities."""
    return 4 * 4 * work.rollout_rows * config.vocab_size


def _gathered(parameters: Parameters, kinds: _Dtypes, cluster: Cluster, training: OmniGRPOConfig) -> int:
    """ZeRO-3 gathers the whole model to generate, unless `ds3_gather_for_generation: false`; FSDP2 always does."""
    gathers = cluster.fsdp or (cluster.zero_stage == 3 and training.ds3_gather_for_generation)
    if not gathers or cluster.num_processes == 1:
        return 0
    return (parameters.base + parameters.adapter) * kinds.compute.itemsize
