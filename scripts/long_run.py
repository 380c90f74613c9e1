"""Train the tiny policy for many small steps, and measure what may grow: memory, open files, temporary files, logs.

    python scripts/long_run.py --steps 2000

Prints a table and a summary; the exit code is 1 where something grew. Linux only (it reads /proc).
"""

import argparse
import gc
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from omnirl_core.config import parse
from omnirl_tools.drawing import draw_missing
from omnirl_tools.run import start_quietly

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from recipes import grpo  # noqa: E402

SETTINGS = {
    "model_name_or_path": "tiny_policy", "templates": '{"default": "plain"}', "bf16": "false", "use_cpu": "true",
    "gradient_checkpointing": "false", "per_device_train_batch_size": "2", "num_generations": "2",
    "max_completion_length": "6", "learning_rate": "1e-6", "logging_steps": "10", "seed": "0",
    "save_total_limit": "2", "report_to": "none", "disable_tqdm": "true",
}  # fmt: skip
WARM_UP = 0.2
"""Part of the steps in which caches fill, left out of the slope."""
MOST_KB_A_STEP = 4.0
"""Slope of memory that passes for flat over thousands of steps: 4 MB in a thousand."""


@dataclass
class Meter(TrainerCallback):
    """Samples the process at every `every` steps."""

    folder: Path
    temporary: Path
    every: int
    samples: list[dict[str, float]] = field(default_factory=list)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every:
            return
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        logs = [path for path in self.folder.iterdir() if path.suffix == ".jsonl"]
        self.samples.append(
            {
                "step": state.global_step,
                "memory_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
                "open_files": len(os.listdir("/proc/self/fd")),
                "threads": len(os.listdir("/proc/self/task")),
                "temporary_files": sum(1 for _ in self.temporary.rglob("*")),
                "logs_mb": sum(path.stat().st_size for path in logs) / 1e6,
                "files": sum(1 for path in self.folder.rglob("*") if path.is_file()),
            }
        )


def train(steps: int, folder: Path, temporary: Path, **settings: str) -> list[dict[str, float]]:
    """Run it; the samples."""
    draw = {"task": "mixed", "train": 200, "test": 4, "seed": 0}
    rewards = ROOT / "recipes" / "mixed" / "rewards.yaml"
    given = {
        **SETTINGS, "output_dir": str(folder / "run"), "dataset_name": str(folder / "data" / "train.json"),
        "draw_shapes": json.dumps(draw), "rewards": str(rewards), "max_steps": str(steps),
        "save_steps": str(max(steps // 8, 1)), **settings,
    }  # fmt: skip
    data, training, model_config = parse([part for key, value in given.items() for part in (f"--{key}", value)])
    start_quietly(training)
    draw_missing(data)
    trainer, _, _ = grpo.build(data, training, model_config)
    meter = Meter(folder / "run", temporary, max(steps // 100, 1))
    trainer.add_callback(meter)
    trainer.train()
    return meter.samples


def slope_kb_a_step(samples: list[dict[str, float]]) -> float:
    """Of memory, by least squares, after the warm-up."""
    steady = samples[int(WARM_UP * len(samples)) :]
    steps, memory = ([sample[name] for sample in steady] for name in ("step", "memory_mb"))
    return float(np.polyfit(steps, memory, 1)[0]) * 1000


def grown(samples: list[dict[str, float]], most_kb_a_step: float) -> list[str]:
    """What grew that should not."""
    steady = samples[int(WARM_UP * len(samples)) :]
    slope = slope_kb_a_step(samples)
    found = [f"memory by {slope:.1f} kB a step"] if slope > most_kb_a_step else []
    for name in ("open_files", "threads", "temporary_files", "files"):
        if steady[-1][name] > steady[len(steady) // 2][name]:
            found.append(f"{name} from {steady[len(steady) // 2][name]:g} to {steady[-1][name]:g}")
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--most_kb_a_step", type=float, default=MOST_KB_A_STEP)
    parser.add_argument("--setting", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as temporary:
        tempfile.tempdir = os.environ["TMPDIR"] = temporary
        samples = train(args.steps, Path(folder), Path(temporary), **dict(args.setting))
        tempfile.tempdir = None
    for sample in samples[:: max(len(samples) // 10, 1)]:
        print("  ".join(f"{name} {value:g}" for name, value in sample.items()))
    first, last = samples[int(WARM_UP * len(samples))], samples[-1]
    print(
        f"{args.steps} steps: memory {first['memory_mb']:.0f} MB -> {last['memory_mb']:.0f} MB after the warm-up, "
        f"{slope_kb_a_step(samples):+.2f} kB a step; open files {first['open_files']:g} -> {last['open_files']:g}; "
        f"temporary files {last['temporary_files']:g}; logs {last['logs_mb'] / args.steps * 1000:.1f} kB a step"
    )
    faults = grown(samples, args.most_kb_a_step)
    print("grew: " + "; ".join(faults) if faults else "nothing grew")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
