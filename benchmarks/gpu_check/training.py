"""A few optimizer steps of one trainer on the device: seconds of each phase, peak memory, and what was estimated."""

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from policy import DEVICE, dataset, make_config, make_policy, make_processor, reward
from presets import Cell, Preset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, ModelConfig, get_peft_config

from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from omnirl_tools.memory import Prompt, estimate_memory
from omnirl_tools.model_settings import quantization_settings

PHASES = ("rollout", "log-probabilities", "forward+backward", "step")
MIB = 2**20
OUT_OF_MEMORY = "out of memory"


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def now() -> float:
    """Seconds by the clock, once the device has done what was asked of it."""
    synchronize()
    return time.perf_counter()


def release() -> None:
    """Give back what no one holds, and start a new peak."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class StepRecorder(TrainerCallback):
    """Seconds of the phases, and peak MiB of rollout and training, step by step."""

    def __init__(self, trainer: GRPOTrainer):
        self.steps: list[dict[str, float]] = []
        self._seconds: dict[str, float] = {}
        self._peaks: dict[str, float] = {}
        self._time(trainer, "_generate_single_turn", "rollout")
        self._time(trainer, "training_step", "training step")
        self._time(trainer, "_prepare_inputs", "preparation")
        trainer.add_callback(self)

    def _time(self, owner: Any, method: str, phase: str) -> None:
        plain = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = now()
            result = plain(*args, **kwargs)
            self._seconds[phase] = self._seconds.get(phase, 0.0) + now() - start
            if phase == "preparation":
                self._peak("rollout")
            return result

        setattr(owner, method, timed)

    def _peak(self, phase: str) -> None:
        if DEVICE == "cuda":
            self._peaks[phase] = torch.cuda.max_memory_allocated() / MIB
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._seconds, self._peaks = {}, {}
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._start = now()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._seconds["step"] = now() - self._start
        self._seconds["forward+backward"] = (
            self._seconds.pop("training step") - self._seconds.pop("preparation")
        )  # fmt: skip
        self._peak("training")
        self.steps.append(self._seconds | {f"{phase} peak": mib for phase, mib in self._peaks.items()})


@dataclass(frozen=True)
class Run:
    """One trainer: TRL's own, or ours, and what differs from the table's settings."""

    cell: Cell
    ours: bool = True
    training: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    attention: str = "sdpa"
    folder: str | None = None
    """A checkpoint to load instead of the policy in memory."""


def configs(run: Run, preset: Preset) -> tuple[GRPOConfig, ModelConfig]:
    """TRL's defaults (bf16 included) but for what makes the lengths exact and keeps the weights as they are."""
    settings: dict[str, Any] = dict(
        output_dir=tempfile.mkdtemp(), use_cpu=DEVICE == "cpu", gradient_checkpointing=False, report_to="none",
        disable_tqdm=True, save_strategy="no", max_steps=preset.repeats, learning_rate=0.0, seed=0,
        num_generations=preset.group, per_device_train_batch_size=preset.group,
        max_completion_length=run.cell.completion, generation_kwargs={"min_new_tokens": run.cell.completion},
    )  # fmt: skip
    if run.ours:
        settings["shared_prefix"] = "on"
    if run.folder:
        settings["model_init_kwargs"] = {"dtype": "bfloat16", "attn_implementation": run.attention}
    kind = OmniGRPOConfig if run.ours else GRPOConfig
    model = ModelConfig(dtype="bfloat16", attn_implementation=run.attention, **run.model or {})
    return kind(**settings | (run.training or {})), model


def make_trainer(run: Run, preset: Preset) -> GRPOTrainer:
    config, model = configs(run, preset)
    kind = OmniGRPOTrainer if run.ours else GRPOTrainer
    trainer = kind(
        run.folder or make_policy(preset, attention=run.attention), reward, config, dataset(run.cell),
        processing_class=make_processor(), peft_config=get_peft_config(model),
        quantization_config=quantization_settings(model),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    if run.ours:
        trainer.remove_callback(trainer.jsonl_logger)
    return trainer


def measured(run: Run, preset: Preset) -> dict[str, Any]:
    """`measure` beside what was estimated; an estimate that fails costs no measured figure."""
    found = measure(run, preset)
    try:
        return {**found, "estimated_mib": estimated(run, preset)}
    except Exception as error:  # noqa: BLE001  told beside the figures
        return {**found, "estimated_mib": None, "estimate_failed": f"{type(error).__name__}: {error}"[:300]}


def measure(run: Run, preset: Preset) -> dict[str, Any]:
    """Medians of the steps, peaks over all of them after the first, and the completions; or that memory ran out."""
    release()
    try:
        return _measure(run, preset)
    except torch.cuda.OutOfMemoryError:
        return {"status": OUT_OF_MEMORY}
    finally:
        release()


def _measure(run: Run, preset: Preset) -> dict[str, Any]:
    before = torch.cuda.memory_allocated() / MIB if DEVICE == "cuda" else 0.0
    trainer = make_trainer(run, preset)
    recorder = StepRecorder(trainer)
    trainer.train()
    steps = recorder.steps
    seconds = {
        phase: statistics.median(step[phase] for step in steps) for phase in PHASES if phase != "log-probabilities"
    }
    inputs = trainer._buffered_inputs[0]
    seconds["log-probabilities"] = median_seconds(lambda: _log_probs(trainer, inputs), preset.repeats)
    found: dict[str, Any] = {"status": "measured", "seconds": seconds, "before_mib": before}
    if DEVICE == "cuda":
        for phase in ("rollout", "training"):
            found[f"{phase}_peak_mib"] = max(step[f"{phase} peak"] for step in steps[1:] or steps) - before
        found["reserved_mib"] = torch.cuda.memory_reserved() / MIB
    found["completions"] = sorted(inputs["completion_ids"].tolist())
    return found


def _log_probs(trainer: Any, inputs: Any) -> None:
    with torch.no_grad():
        trainer.compute_loss(trainer.model, inputs)


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Of the runs after a first one."""
    times = []
    for _ in range(repeats + 1):
        start = now()
        run()
        times.append(now() - start)
    return statistics.median(times[1:])


def estimated(run: Run, preset: Preset) -> dict[str, float]:
    """MiB that `omnirl estimate-memory` expects of the same run, from the config alone."""
    plain = {} if run.ours else {"shared_prefix": "off"}
    same = Run(run.cell, True, plain | (run.training or {}), run.model, run.attention)
    training, model = configs(same, preset)
    prompt = Prompt(run.cell.prompt, run.cell.image_tokens)
    found = estimate_memory(training, model, make_config(preset), prompt, bf16=True, on_gpu=DEVICE == "cuda")
    parts = {name: size / MIB for name, size in found.parts().items() if size}
    return {
        "peak": found.peak / MIB, "rollout_peak": found.rollout_peak / MIB,
        "training_peak": found.training_peak / MIB, **parts,
    }  # fmt: skip
