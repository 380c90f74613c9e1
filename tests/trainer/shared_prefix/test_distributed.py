"""Shared prefixes on two processes, text on one and pictures on the other: the plain path's completions and weights."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "shared_prefix_steps.py"
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}

ZERO3 = """
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
deepspeed_config: {zero_stage: 3, gradient_accumulation_steps: auto, zero3_init_flag: false}
mixed_precision: 'no'
num_machines: 1
num_processes: 2
use_cpu: true
"""


def launch(strategy: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Command and environment; a DeepSpeed launch must not find ACCELERATE_USE_CPU, which DDP on the CPU needs."""
    python = [sys.executable, "-m"]
    if strategy == "ddp":
        run = [*python, "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        return run, {**ENV, "ACCELERATE_USE_CPU": "true"}
    config = folder / "zero3.yaml"
    config.write_text(ZERO3)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    run = [*python, "accelerate.commands.launch", "--main_process_port", port, "--config_file", str(config)]
    return run, {name: value for name, value in ENV.items() if name != "ACCELERATE_USE_CPU"}


@pytest.fixture
def steps(tiny_checkpoint, pictures, tmp_path):
    def run(shared: str, *arguments: str) -> tuple[list[list[float]], torch.Tensor, list[str]]:
        output = tmp_path / shared
        run_it, environment = launch(arguments[1], tmp_path)
        command = [
            *run_it, str(SCRIPT), "--checkpoint", tiny_checkpoint, "--output", str(output),
            "--shared-prefix", shared, "--pictures", *pictures, *arguments,
        ]  # fmt: skip
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=400
        )  # the watchdog
        assert done.returncode == 0, done.stderr[-3000:]
        lines = [json.loads(line) for line in (output / "completions.jsonl").read_text().splitlines()]
        completions = sorted(f"{line['row_id']} {line['completion']}" for line in lines)
        return json.loads((output / "log.json").read_text()), torch.load(output / "moved.pt"), completions

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("--strategy", "ddp"),
        ("--strategy", "ddp", "--local-group", "2"),
        ("--strategy", "zero3"),
        ("--strategy", "zero3_ungathered"),
    ],
    ids=" ".join,
)
def test_two_processes_equal_the_plain_path(steps, arguments):
    (log, moved, completions), (plain_log, plain_moved, plain_completions) = (
        steps(shared, *arguments) for shared in ("on", "off")
    )
    assert completions == plain_completions
    assert log == [pytest.approx(line, abs=1e-5) for line in plain_log]
    assert plain_moved.norm() > 0
    assert (moved - plain_moved).norm() <= 1e-5 * plain_moved.norm()
