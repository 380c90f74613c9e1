"""A few of the kills that docs/reliability.md counts."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from forked import python

ROOT = Path(__file__).parents[2]


def kill_points(*arguments: str) -> str:
    """What the script printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    done = subprocess.run(
        [python(), "scripts/kill_points.py", *arguments],
        cwd=ROOT,
        env={**kept, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,  # the watchdog
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_killed_and_stopped_runs_end_as_if_nothing_had_happened():
    printed = kill_points("--kills", "2", "--stops", "2", "--seed", "1")
    assert re.search(r"^4 runs \(.*1 SIGINT.*1 SIGTERM.*\): 0 final states differ", printed, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.repeat
@pytest.mark.parametrize("engine", ["ddp", "zero3"])
def test_jobs_of_two_ranks_that_are_killed_end_as_if_nothing_had_happened(engine):
    printed = kill_points("--kills", "2", "--ranks", "2", "--engine", engine, "--seed", "1")
    assert re.search(r"^2 runs \(.*while saving.*\): 0 final states differ", printed, re.MULTILINE)
