"""Text on one process and pictures on the other: no hang, and the single process's numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from omnirl_core.models import load_policy

SCRIPT = Path(__file__).parent / "distributed_steps.py"
ENV = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def steps(tiny_checkpoint, pictures, tmp_path):
    def run(processes: int, *arguments: str) -> Path:
        output = tmp_path / str(processes)
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={processes}",
        ]
        command = [
            *launcher, str(SCRIPT), "--processes", str(processes), "--checkpoint", tiny_checkpoint,
            "--output", str(output), "--pictures", *pictures, *arguments,
        ]  # fmt: skip
        done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=400)  # the watchdog
        assert done.returncode == 0, done.stderr[-3000:]
        return output

    return run


@pytest.mark.slow
def test_two_processes_equal_one(steps, tiny_checkpoint):
    arguments = ("--kinds", "TTIMIMTT", "--beta", "0.1")
    two, one = steps(2, *arguments), steps(1, *arguments)
    assert json.loads((two / "rank0.json").read_text()) == ["TTTT", "IIMM"]
    assert json.loads((two / "rank1.json").read_text()) == ["IIMM", "TTTT"]

    start = torch.cat([p.detach().flatten() for p in load_policy(tiny_checkpoint).parameters()])
    expected = torch.load(one / "rank0.pt")
    moved = (expected - start).norm()
    assert moved > 0
    for rank in (0, 1):
        assert (torch.load(two / f"rank{rank}.pt") - expected).norm() <= 1e-5 * moved

    lines = [json.loads(line) for line in (two / "completions.jsonl").read_text().splitlines()]
    assert sorted(line["row_id"] for line in lines) == sorted("0011223344556677")
    assert [line["step"] for line in lines] == [1] * 8 + [2] * 8
