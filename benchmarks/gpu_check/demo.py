"""Part `demo`: the mixed recipe's demo by its own command, on the device: the whole path from a YAML to a report."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from policy import DEVICE
from presets import Preset

ROOT = Path(__file__).parents[2]
CONFIG = "recipes/mixed/demo.yaml"


def demo(preset: Preset) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield CONFIG, lambda: launch(preset)


def launch(preset: Preset) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        launched = subprocess.run(
            command(preset, folder), cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        seconds = time.perf_counter() - start
        if launched.returncode:
            return {"status": "failed", "reason": (launched.stdout + launched.stderr)[-1500:]}
        result = json.loads(Path(folder, "run", "result.json").read_text(encoding="utf-8"))
    return {"status": "measured", "seconds": seconds, "steps": preset.demo_steps, "result": result}


def command(preset: Preset, folder: str) -> list[str]:
    config = "single_gpu" if DEVICE == "cuda" else "cpu"
    settings: dict[str, Any] = {
        "output_dir": f"{folder}/run", "dataset_name": f"{folder}/data/train.json",
        "eval_dataset_name": f"{folder}/data/test.json", "max_steps": preset.demo_steps,
        "use_cpu": str(DEVICE == "cpu").lower(),
    }  # fmt: skip
    if preset.demo_steps == 1:
        settings |= {
            "num_generations": 2, "per_device_train_batch_size": 4, "eval_rows": 7,
            "draw_shapes": '{"task": "mixed", "train": 14, "test": 7, "seed": 0}',
        }  # fmt: skip
    arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"accelerate_configs/{config}.yaml",
        "recipes/grpo.py", "--config", CONFIG, *arguments,
    ]  # fmt: skip
