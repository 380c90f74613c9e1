"""Part `colocate`: rollouts by vLLM in the training process, where vLLM is installed."""

import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from policy import DEVICE
from presets import Cell, Preset
from training import Run, measure
from tuning import write_checkpoint

SETTINGS = {
    "use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.3, "vllm_max_model_length": 1024,
}  # fmt: skip


def colocate(preset: Preset) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    cell = Cell("text", 512, 128)
    yield cell.name, lambda: steps(cell, preset)


def steps(cell: Cell, preset: Preset) -> dict[str, Any]:
    """With text-only prompts."""
    if find_spec("vllm") is None or DEVICE == "cpu":
        return {"status": "skipped", "reason": "vllm is not installed, or there is no GPU"}
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(preset, folder)
        found = measure(Run(cell, training=SETTINGS, folder=folder), preset)
    found.pop("completions", None)
    return found
