"""Shared prefixes on two processes, text on one and images on the other: the plain path's completions and weights."""

import json
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from forked import environment, python

SCRIPT = Path(__file__).parents[2] / "distributed" / "shared_prefix_steps.py"

ZERO3 = """
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
deepspeed_config: {zero_stage: 3, gradient_accumulation_steps: auto, zero3_init_flag: false}
mixed_precision: 'no'
num_machines: 1
num_processes: 2
use_cpu: true
"""


STRATEGIES = {"ddp": ("ddp", "ddp_split"), "zero3": ("zero3", "zero3_ungathered")}
"""Of each engine; `ddp_split` has half of a group on each process, the others whole groups."""


def launch(engine: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Command and environment; a DeepSpeed launch must not find ACCELERATE_USE_CPU, which DDP on the CPU needs."""
    if engine == "ddp":
        run = [python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        return run, environment(ACCELERATE_USE_CPU="true")
    config = folder / "zero3.yaml"
    config.write_text(ZERO3)
    run = [
        python(),
        "-m",
        "accelerate.commands.launch",
        "--main_process_port",
        "0",
        "--config_file",
        str(config),
    ]
    given = environment(DS_ACCELERATOR="cpu")
    given.pop("ACCELERATE_USE_CPU", None)
    return run, given


@pytest.fixture(scope="module")
def output(tiny_checkpoint, image_files, tmp_path_factory) -> Callable[[str], Path]:
    """The folder of an engine, which is launched once for all of its strategies."""

    @cache
    def launched(engine: str) -> Path:
        folder = tmp_path_factory.mktemp(engine)
        run_it, given = launch(engine, folder)
        command = [
            *run_it, str(SCRIPT), "--checkpoint", tiny_checkpoint, "--output", str(folder),
            "--strategies", *STRATEGIES[engine], "--image_files", *image_files,
        ]  # fmt: skip
        done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=600)  # the watchdog
        assert done.returncode == 0, done.stderr[-3000:]
        return folder

    return launched


@pytest.fixture
def left(output):
    """What the steps of a strategy left, shared ("on") or plain ("off")."""

    def read(strategy: str, shared: str) -> tuple[list[list[float]], torch.Tensor, list[str]]:
        folder = output(strategy.partition("_")[0]) / f"{strategy}_{shared}"
        lines = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
        completions = sorted(f"{line['row_id']} {line['completion']}" for line in lines)
        return json.loads((folder / "log.json").read_text()), torch.load(folder / "moved.pt"), completions

    return read


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("strategy", [strategy for both in STRATEGIES.values() for strategy in both])
def test_two_processes_equal_the_plain_path(left, strategy):
    log, moved, completions = left(strategy, "on")
    plain_log, plain_moved, plain_completions = left(strategy, "off")
    assert completions == plain_completions
    assert log == [pytest.approx(line, abs=1e-5) for line in plain_log]
    assert plain_moved.norm() > 0
    assert (moved - plain_moved).norm() <= 1e-5 * plain_moved.norm()


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("engine", STRATEGIES)
def test_a_process_that_loses_its_images_stops_both(output, engine):
    reported = [(output(engine) / f"blind{rank}.txt").read_text() for rank in (0, 1)]
    assert reported[0] == reported[1]
    assert re.search(r"log-probabilities: .* 0 images where the samples have 4 \(rank 1; samples 1", reported[0])
