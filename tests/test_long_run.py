"""A short run of what docs/reliability.md measures over two thousand steps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_nothing_grows_from_step_to_step():
    done = subprocess.run(
        [sys.executable, "scripts/long_run.py", "--steps", "100", "--most_kb_a_step", "400"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,  # the watchdog
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "nothing grew" in done.stdout
