"""result.json: what a run came to, in few numbers, small enough to keep when its folder is gone."""

import json
import os
import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from omnirl_core.types import JsonObject
from omnirl_tools.evaluation.compare import Change


def write_result(folder: str | Path, changes: Sequence[Change], seconds: float) -> Path:
    """Write `folder/result.json`: the changes of the held-out rows, how long it took, on what, and its peak memory.

    `seconds` is wall time from the reading of the config to the last figure; it grows with whatever else the machine
    does, which `cpu_minutes`, the time that all cores together gave the process, does not. Both and the memory are
    the main process's.
    """
    result = {
        "minutes": round(seconds / 60, 2),
        "cpu_minutes": round(sum(os.times()[:2]) / 60, 2),
        "hardware": hardware(),
        "peak_memory_gib": {name: round(size, 2) for name, size in peak_memory_gib().items()},
        "changes": [_rounded(asdict(change)) for change in changes],
    }
    path = Path(folder) / "result.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def read_changes(result: JsonObject) -> list[Change]:
    """The changes that a result.json holds."""
    return [Change(**change) for change in result["changes"]]


def peak_memory_gib() -> dict[str, float]:
    """Most memory that this process has held so far, by place: `host`, and `gpu` where there is one."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
    if torch.cuda.is_available():
        peak["gpu"] = torch.cuda.max_memory_allocated() / 2**30
    return peak


def hardware() -> str:
    """The processors that the run used, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} x {_cpu()}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}
