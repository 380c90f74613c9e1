"""Whether a run fits a GPU, and if not, the cheapest changes of its settings that make it fit, each with its figure."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from transformers import PretrainedConfig
from trl import ModelConfig

from omnirl_core.trainer import OmniGRPOConfig
from omnirl_tools.memory.estimate import Cluster, MemoryEstimate, estimate_memory
from omnirl_tools.memory.workload import Prompt

GIB = 2**30
CONTEXT = GIB
"""What CUDA and its kernels take of a GPU."""
TIGHT = 0.9
"""From this share of a GPU on, fragments of the allocator may end a run that fits by its figures."""
LORA = {"use_peft": True, "lora_r": 64, "lora_alpha": 128, "lora_target_modules": "all-linear"}
"""Of recipes/mixed/qwen2_5_vl_3b_lora.yaml; a ModelConfig keeps a list of one name as the name."""
LEAST_PIXELS = 28 * 28 * 64


@dataclass(frozen=True)
class Plan:
    """The settings of a run that decide its memory."""

    training: OmniGRPOConfig
    model: ModelConfig
    prompt: Prompt
    cluster: Cluster
    config: PretrainedConfig
    bf16: bool = True

    def estimate(self, on_gpu: bool = True) -> MemoryEstimate:
        return estimate_memory(
            self.training,
            self.model,
            self.config,
            self.prompt,
            bf16=self.bf16,
            cluster=self.cluster,
            on_gpu=on_gpu,
        )

    def needed(self, gpu: int) -> int:
        """Bytes of a GPU of so many bytes: the peak, CUDA's own, and what vLLM reserves beside the training."""
        training = self.training
        beside = training.use_vllm and training.vllm_mode == "colocate"
        vllm = int(training.vllm_gpu_memory_utilization * gpu) if beside else 0
        return self.estimate().peak + CONTEXT + vllm

    def training_with(self, **settings: object) -> "Plan":
        return replace(self, training=_with(self.training, settings))

    def model_with(self, **settings: object) -> "Plan":
        return replace(self, model=_with(self.model, settings))


Change = Callable[[Plan], tuple[str, Plan] | None]
"""What to write and the plan with it; None where the plan has it, or cannot."""


@dataclass(frozen=True)
class Step:
    """One change and what the run needs with it and all before it."""

    change: str
    needed: int


def steps_to_fit(plan: Plan, gpu: int) -> tuple[list[Step], bool]:
    """Changes that bring the need down to `gpu` bytes, the cheapest first, and whether they do.

    Changes are tried in the order of what they cost (seconds, then what the run learns from, then machines), kept
    where they help, and left out again where the later ones do without them.
    """
    kept: list[Change] = []
    found, needed = plan, plan.needed(gpu)
    for change in (*CHANGES, *CHANGES):  # what did not help at first may, once something else is smaller
        changed = None if needed <= gpu else change(found)
        if changed is None:
            continue
        less = changed[1].needed(gpu)
        if less < needed:
            kept.append(change)
            found, needed = changed[1], less
    fits = needed <= gpu
    for change in reversed(kept[:-1]) if fits else ():
        fewer = [other for other in kept if other is not change]  # of two uses of one change both
        if _steps(plan, fewer, gpu)[-1].needed <= gpu:
            kept = fewer
    return _steps(plan, kept, gpu), fits


def single_changes(plan: Plan, gpu: int) -> Iterator[Step]:
    """Each change alone that makes the run fit, the cheapest first."""
    for change in dict.fromkeys(CHANGES):
        changed = change(plan)
        if changed is not None and (needed := changed[1].needed(gpu)) <= gpu:
            yield Step(changed[0], needed)


def _steps(plan: Plan, changes: list[Change], gpu: int) -> list[Step]:
    steps = []
    for change in changes:
        changed = change(plan)
        if changed is not None:
            text, plan = changed
            steps.append(Step(text, plan.needed(gpu)))
    return steps


def _with(settings: Any, values: dict[str, Any]) -> Any:
    changed = copy.copy(settings)  # a new one would work out again what depends on the old values
    for name, value in values.items():
        setattr(changed, name, value)
    return changed


def _checkpointing(plan: Plan) -> tuple[str, Plan] | None:
    if plan.training.gradient_checkpointing:
        return None
    return "gradient_checkpointing: true", plan.training_with(gradient_checkpointing=True)


def _shared_prefix(plan: Plan) -> tuple[str, Plan] | None:
    if plan.training.shared_prefix != "off":
        return None
    return "shared_prefix: auto", plan.training_with(shared_prefix="auto")


def _smaller_batch(plan: Plan) -> tuple[str, Plan] | None:
    """The same step in twice as many micro-batches."""
    rows, accumulated = plan.training.per_device_train_batch_size, plan.training.gradient_accumulation_steps
    if rows % 2:
        return None
    at_once = int(plan.training.steps_per_generation or accumulated)
    values = {"per_device_train_batch_size": rows // 2, "gradient_accumulation_steps": 2 * accumulated}
    shown = ", ".join(f"{name}: {value}" for name, value in values.items())
    return shown, plan.training_with(**values, steps_per_generation=2 * at_once)


def _smaller_rollout(plan: Plan) -> tuple[str, Plan] | None:
    """The fewest micro-batches that hold whole groups."""
    training = plan.training
    now = int(training.steps_per_generation or training.gradient_accumulation_steps)
    rows, group = (
        training.per_device_train_batch_size * plan.cluster.num_processes,
        training.num_generations or 1,
    )
    least = next((n for n in range(1, now) if rows * n % group == 0 and now % n == 0), None)
    if least is None:
        return None
    return f"steps_per_generation: {least}", plan.training_with(steps_per_generation=least)


def _fewer_pixels(plan: Plan) -> tuple[str, Plan] | None:
    prompt, pixels = plan.prompt, plan.training.max_pixels or 1280 * 28 * 28
    if not prompt.image_tokens or pixels // 2 < LEAST_PIXELS:
        return None
    images = prompt.image_tokens // 2
    smaller = Prompt(prompt.tokens - prompt.image_tokens + images, images)
    changed = plan.training_with(max_pixels=pixels // 2)
    return f"max_pixels: {pixels // 2}", replace(changed, prompt=smaller)


def _frozen_tower(plan: Plan) -> tuple[str, Plan] | None:
    if plan.training.freeze_vision_tower:
        return None
    return "freeze_vision_tower: true", plan.training_with(freeze_vision_tower=True)


def _small_optimizer(plan: Plan) -> tuple[str, Plan] | None:
    if plan.model.use_peft or plan.cluster.deepspeed or "8bit" in str(plan.training.optim):
        return None
    return "optim: adamw_8bit (bitsandbytes)", plan.training_with(optim="adamw_8bit")


def _lora(plan: Plan) -> tuple[str, Plan] | None:
    if plan.model.use_peft:
        return None
    shown = "use_peft: true, lora_r: 64, lora_alpha: 128, lora_target_modules: [all-linear]"
    return shown, plan.model_with(**LORA)


def _qlora(plan: Plan) -> tuple[str, Plan] | None:
    model = plan.model
    if not model.use_peft or model.load_in_4bit or plan.cluster.stage == 3:
        return None
    changed = plan.model_with(load_in_4bit=True, load_in_8bit=False, use_bnb_nested_quant=True)
    return "load_in_4bit: true, use_bnb_nested_quant: true (bitsandbytes)", changed


def _zero3(plan: Plan) -> tuple[str, Plan] | None:
    if plan.cluster.num_processes == 1 or plan.cluster.stage == 3 or plan.model.load_in_4bit:
        return None
    changed = replace(plan, cluster=replace(plan.cluster, zero_stage=3, fsdp=False))
    return "--config_file accelerate_configs/zero3.yaml", changed


def _offload(plan: Plan) -> tuple[str, Plan] | None:
    if plan.cluster.stage != 3 or plan.cluster.fsdp or plan.cluster.offload:
        return None
    changed = replace(plan, cluster=replace(plan.cluster, offload=True))
    return "--config_file accelerate_configs/zero3_offload.yaml", changed


CHANGES: tuple[Change, ...] = (
    _checkpointing,
    _shared_prefix,
    _smaller_batch,
    _smaller_batch,
    _smaller_batch,
    _smaller_rollout,
    _fewer_pixels,
    _frozen_tower,
    _zero3,
    _small_optimizer,
    _lora,
    _offload,
    _qlora,
)
"""From what costs a little time to what changes which weights learn and how exactly."""
