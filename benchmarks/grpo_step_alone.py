"""One step of each trainer in a process of its own, at the shape of Qwen2.5-VL-3B on a CPU; see grpo_step.py."""

import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from grpo_step_cells import ALONE, Cell, write_checkpoint
from sections import processor, publish, software

from omnirl_core.types import counted

START, END = "<!-- made by benchmarks/grpo_step.py, 3b-cpu -->", "<!-- end of benchmarks/grpo_step.py, 3b-cpu -->"
WHICH = ("ours", "trl")


def print_step(trainer: Any, limit_s: float) -> None:
    """CPU seconds of one step, the most memory that the process ever held and that of the weights, MiB.

    The system ends the process at the limit.
    """
    weights = sum(one.numel() * one.element_size() for one in trainer.model.parameters()) / 2**20
    begun = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(begun + limit_s), resource.RLIM_INFINITY))
    trainer.train()
    seconds = time.process_time() - begun
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 2**10  # type: ignore[index]
    print(json.dumps({"seconds": seconds, "memory": peak, "beyond": peak - weights}))


def run(script: Path, which: str, folder: str, cell: Cell, preset: str, limit_s: float) -> dict[str, float] | None:
    """What `print_step` says; None where the limit has passed before."""
    command = [sys.executable, str(script), "--memory-of", which, folder, json.dumps(asdict(cell)), "--preset", preset,
               "--limit_s", str(limit_s), "--threads", str(torch.get_num_threads())]  # fmt: skip
    # glibc keeps freed blocks below a threshold that it raises
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == -signal.SIGXCPU:
        return None
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def compare_alone(script: Path, cells: list[Cell], preset: str, limit_s: float, write: bool) -> None:
    """Both trainers on each cell, one after the other; prints the table as it grows."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(folder, preset)
        for cell in cells:
            found = {which: run(script, which, folder, cell, preset, limit_s) for which in WHICH}
            lines.append(_line(cell, found, limit_s))
            print(lines[-1], file=sys.stderr, flush=True)
    flags = [name for name in ("avx512_bf16", "amx_bf16") if name in Path("/proc/cpuinfo").read_text()]
    head = [
        "prompt",
        "G",
        "P",
        "C",
        "TRL",
        "ours",
        "ratio",
        "peak memory, TRL",
        "ours",
        "ratio",
        "of it beyond the weights",
    ]
    section = "\n".join([
        START,
        "## A step at the shape of 3B on a CPU",
        "",
        f"`python benchmarks/grpo_step.py --preset {preset}`: one step of a random Qwen2.5-VL-3B in bf16 with "
        f"{ALONE[preset]} of its 36 layers, LoRA on the language model, checkpointing, each trainer in a "
        f"process of its own, of at most {limit_s:.0f} s. CPU seconds of {counted(torch.get_num_threads(), 'thread')}, "
        "the trainer's start not counted; "
        "memory is the most that the process held. Must hold: a quarter of the seconds, half of the memory; where the "
        "weights alone are half of it, the ratio of what is held beyond them says more.",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *lines,
        "",
        f"{processor()} ({', '.join(flags) or 'no bf16 instructions'}); {software()}.",
        END,
    ])  # fmt: skip
    publish(section, START, END, write)


def _line(cell: Cell, found: dict[str, dict[str, float] | None], limit_s: float) -> str:
    ours, theirs = (found[which] for which in WHICH)
    shown = [f"{one['seconds']:.0f} s" if one else f"over {limit_s:.0f} s" for one in (theirs, ours)]
    memory = [f"{one['memory'] / 2**10:.1f} GiB" if one else "-" for one in (theirs, ours)]
    ratios = [
        f"{ours[name] / theirs[name]:.2f}" if ours and theirs else "-" for name in ("seconds", "memory", "beyond")
    ]
    values = [cell.kind, cell.group, cell.prompt, cell.completion, *shown, ratios[0], *memory, *ratios[1:]]
    return f"| {' | '.join(map(str, values))} |"
