"""A few of the kills that docs/reliability.md counts fifty of."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_killed_and_stopped_runs_end_as_if_nothing_had_happened():
    done = subprocess.run(
        [sys.executable, "scripts/kill_points.py", "--kills", "2", "--stops", "2", "--seed", "1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,  # the watchdog
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert re.search(r"^4 runs \(.*1 SIGINT.*1 SIGTERM.*\): 0 final states differ", done.stdout, re.MULTILINE)
