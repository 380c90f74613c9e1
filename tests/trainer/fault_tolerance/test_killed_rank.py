"""One process of a run dies: the others end soon, the launcher names it, and nothing goes on alone."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from launching import finish, recipe, start


def command(config: str, folder: Path, *more: str) -> list[str]:
    launcher = ["accelerate", "launch", "--config_file", f"accelerate_configs/{config}.yaml"]
    arguments = recipe(folder, "--max_steps", "1000", *more)
    return [*launcher, "--num_processes", "2", "--main_process_port", "0", "recipes/grpo.py", *arguments]


def processes_of_ranks(launcher: int) -> dict[int, psutil.Process]:
    children = psutil.Process(launcher).children(recursive=True)
    return {int(child.environ()["LOCAL_RANK"]): child for child in children if "LOCAL_RANK" in child.environ()}


def wait_for_steps(metrics: Path, steps: int, limit_s: float = 240) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= steps:
            return
        time.sleep(0.2)
    raise AssertionError(f"{metrics} has no {steps} steps after {limit_s} s")


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp", pytest.param("zero3", marks=pytest.mark.repeat)])
def test_kill_9_of_one_process_ends_the_run(config, tmp_path):
    # real processes: a fork that is killed has another parent than the launcher
    launcher = start(command(config, tmp_path, "--eval_rows", "1"), PYTHON_EXEC=sys.executable)
    wait_for_steps(tmp_path / "run" / "metrics.jsonl", 2)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["processes"] == 2
    everyone = psutil.Process(launcher.pid).children(recursive=True)
    os.kill(processes_of_ranks(launcher.pid)[1].pid, signal.SIGKILL)
    code, printed = finish(launcher, timeout_s=60)
    assert code != 0
    assert re.search(r"rank +: 1 .*\n.*exitcode +: -9 .*SIGKILL", printed), printed[-3000:]
    _, left = psutil.wait_procs(everyone, timeout=5)
    assert left == []
    last = json.loads((tmp_path / "run" / "ranks" / "rank1.json").read_text())
    assert last["rank"] == 1
    assert last["step"] >= 2
    assert last["row_ids"]
