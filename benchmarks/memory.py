"""Estimated against measured peak memory of two optimizer steps on the CPU, each case in a fresh process.

    python benchmarks/memory.py [--preset 3b-lora] [--cases full-text lora-image ...] [--write]

A random Qwen2.5-VL of 48 million parameters in float32, large enough that tensors are most of what a process holds.
Measured is the peak of resident memory over what was resident before the model was loaded; estimated is
`omnirl_tools.memory.estimate_memory` from the config alone. `--preset 3b-lora` is Qwen2.5-VL-3B's shape in bf16, with
the LoRA settings of recipes/mixed/qwen2_5_vl_3b_lora.yaml: about ten minutes, 10 GiB of memory and 8 GiB of disk
(`3b-lora-8`: 8 of its 36 layers). `--write` renews its section of benchmarks/RESULTS.md.
Figures of a GPU are not measured here.
"""

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from datasets import Dataset
from grpo_step_cells import IMAGES, PRESETS, Cell, preset, reward, rows, write_checkpoint
from sections import processor, publish, software
from trl import ModelConfig, get_peft_config

from omnirl_core.trainer import OmniGRPOConfig, OmniGRPOTrainer
from omnirl_core.types import counted
from omnirl_tools.memory import MemoryEstimate, Prompt, estimate_memory, model_config
from omnirl_tools.model_settings import quantization_settings

PRESETS["memory"] = preset(
    8192, 8000, "cpu", "float32", text=(640, 1920, 8, 10, 2), rotated=[8, 12, 12], vision=(6, 256, 512, 8),
    full_attention=[5],
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    cell: Cell
    training: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    policy: str = "memory"
    """Of benchmarks/grpo_step_cells.py."""


LIMIT_S = 3000
"""Of one case, by the clock."""
LORA = {"use_peft": True, "lora_r": 16, "lora_target_modules": "all-linear"}
OFF, SAVING = {"shared_prefix": "off"}, {"gradient_checkpointing": True}
CASES = {
    "full-text": Case(Cell("text", 8, 128, 64)),
    "full-text, plain": Case(Cell("text", 8, 128, 64), OFF),
    "full-image": Case(Cell("image", 8, 512, 32)),
    "full-image, plain": Case(Cell("image", 4, 512, 32), OFF),
    "full-image, checkpointing": Case(Cell("image", 8, 512, 32), SAVING),
    "full-image, plain, checkpointing": Case(Cell("image", 4, 512, 32), OFF | SAVING),
    "full-image, frozen tower, accumulation": Case(
        Cell("image", 8, 128, 64), {"freeze_vision_tower": True, "gradient_accumulation_steps": 2}
    ),
    "full-text, reference model": Case(Cell("text", 8, 128, 32), {"beta": 0.04}),
    "lora-text": Case(Cell("text", 8, 512, 64), {}, LORA),
    "lora-image, plain": Case(Cell("image", 8, 512, 32), OFF, LORA),
    "lora-image, plain, checkpointing": Case(Cell("image", 8, 512, 32), OFF | SAVING, LORA),
    "nf4 lora-text": Case(Cell("text", 8, 512, 64), {}, LORA | {"load_in_4bit": True}),
    "full-text, 8 groups, long answers": Case(Cell("text", 8, 128, 128), {"per_device_train_batch_size": 32}),
}

# of recipes/mixed/qwen2_5_vl_3b_lora.yaml
RECIPE = {"use_peft": True, "lora_r": 64, "lora_alpha": 128, "lora_target_modules": ["all-linear"]}
SHAPES_3B = {
    preset: {
        f"{preset}, image": Case(
            Cell("image", 8, 512, 32), SAVING | {"freeze_vision_tower": True}, RECIPE, preset.replace("lora", "cpu")
        )
    }
    for preset in ("3b-lora", "3b-lora-8")
}
PRESET_CASES = {"48m": CASES, **SHAPES_3B}
MARKS = {
    preset: tuple(
        f"<!-- {what} benchmarks/memory.py{'' if preset == '48m' else f', {preset}'} -->"
        for what in ("made by", "end of")
    )
    for preset in PRESET_CASES
}
ALL_CASES = {name: case for cases in PRESET_CASES.values() for name, case in cases.items()}


def configs(case: Case) -> tuple[OmniGRPOConfig, ModelConfig]:
    cell = case.cell
    settings: dict[str, Any] = dict(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        disable_tqdm=True, save_strategy="no", max_steps=2, learning_rate=1e-6, num_generations=cell.group,
        per_device_train_batch_size=cell.group, max_completion_length=cell.completion,
        generation_kwargs={"min_new_tokens": cell.completion},
        model_init_kwargs={"dtype": PRESETS[case.policy]["dtype"]},
    )  # fmt: skip
    return OmniGRPOConfig(**settings | case.training), ModelConfig(dtype=PRESETS[case.policy]["dtype"], **case.model)


def estimate(case: Case, folder: str) -> MemoryEstimate:
    """From the checkpoint's config; its weights are not read."""
    training, model = configs(case)
    across, down = IMAGES[case.cell.prompt]
    prompt = Prompt(case.cell.prompt, across * down if case.cell.kind == "image" else 0)
    return estimate_memory(training, model, model_config(folder), prompt, bf16=False, on_gpu=False)


def measure(case: Case, folder: str) -> float:
    """Peak bytes over what was resident before the model was loaded, in a fresh process."""
    name = next(name for name, known in ALL_CASES.items() if known is case)
    command = [sys.executable, __file__, "--measure", name, "--folder", folder]
    # glibc raises its threshold when a large block is freed, and keeps the blocks below it
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout.splitlines()[-1])


def print_peak(case: Case, folder: str) -> None:
    training, model = configs(case)
    warm_up()
    # Linux keeps the peak of what ran before, across exec too; 5 sets it to what is held now
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    train(folder, training, model, rows(case.cell))
    print(1024 * (resident("VmHWM") - before))


def warm_up() -> None:
    """A step of the tiny policy: code, buffers and threads that a process has whatever it trains."""
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(folder, "small")
        train(folder, *configs(Case(Cell("image", 2, 128, 2))), rows(Cell("image", 2, 128, 2)))
    gc.collect()


def train(folder: str, training: OmniGRPOConfig, model: ModelConfig, data: Dataset) -> None:
    trainer = OmniGRPOTrainer(
        folder, reward, training, data, peft_config=get_peft_config(model),
        quantization_config=quantization_settings(model),
    )  # fmt: skip
    trainer.remove_callback(trainer.jsonl_logger)
    trainer.train()


def resident(name: str) -> int:
    """KiB that this process holds (VmRSS), or held at most (VmHWM)."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def table(found: dict[str, tuple[MemoryEstimate, float]]) -> str:
    head = "| case | P | C | rows | measured | estimated | difference |\n|---|---|---|---|---|---|---|"
    lines = []
    for name, (estimated, measured) in found.items():
        case = ALL_CASES[name]
        batch = case.training.get("per_device_train_batch_size", case.cell.group)
        lines.append(
            f"| {name} | {case.cell.prompt} | {case.cell.completion} | {batch} | {measured / 2**20:,.0f} MiB "
            f"| {estimated.peak / 2**20:,.0f} MiB | {estimated.peak / measured - 1:+.0%} |"
        )
    worst = max(abs(estimated.peak / measured - 1) for estimated, measured in found.values())
    summary = f"{counted(len(found), 'case')}, the largest difference {worst:.0%}. {software('peft')}."
    return "\n".join([head, *lines, "", summary])


def section(preset: str, found: dict[str, tuple[MemoryEstimate, float]]) -> str:
    start, end = MARKS[preset]
    if preset == "48m":
        return f"{start}\n{table(found)}\n{end}"
    case = next(iter(PRESET_CASES[preset].values()))
    layers = PRESETS[case.policy]["text"]["num_hidden_layers"]
    return "\n".join([
        start,
        "### At the shape of 3B",
        "",
        f"`python benchmarks/memory.py --preset {preset}`: the same for a random Qwen2.5-VL-3B in bf16, {layers} of "
        "its 36 layers, with the LoRA settings of recipes/mixed/qwen2_5_vl_3b_lora.yaml (rank 64, adapters in float32, "
        "a frozen tower) and gradient checkpointing. Must hold: within 15 %.",
        "",
        table(found),
        "",
        f"{processor()}.",
        end,
    ])  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESET_CASES), default="48m")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="of the preset; all of them by default")
    parser.add_argument("--write", action="store_true", help="renew the section in benchmarks/RESULTS.md")
    parser.add_argument("--measure", choices=list(ALL_CASES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure:
        print_peak(ALL_CASES[arguments.measure], arguments.folder)
        return 0
    cases = PRESET_CASES[arguments.preset]
    wanted = arguments.cases or list(cases)
    if unknown := set(wanted) - set(cases):
        parser.error(f"--cases {', '.join(sorted(unknown))}: not of preset {arguments.preset}: {', '.join(cases)}")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(folder, cases[wanted[0]].policy)
        for name in wanted:
            estimated, measured = estimate(cases[name], folder), measure(cases[name], folder)
            found[name] = (estimated, measured)
            parts = {part: round(size / 2**20) for part, size in estimated.parts().items() if size}
            print(
                f"{name}: {measured / 2**20:.0f} MiB, estimated {estimated.peak / 2**20:.0f}",
                json.dumps(parts),
            )
    made = section(arguments.preset, found)
    publish(made, *MARKS[arguments.preset], arguments.write)
    return 0 if all(abs(e.peak / m - 1) <= 0.15 for e, m in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
