"""A short run of what docs/reliability.md measures over two thousand steps."""

import subprocess
from pathlib import Path

import pytest
from forked import environment, python

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_nothing_grows_from_step_to_step():
    done = subprocess.run(
        [python(), "scripts/long_run.py", "--steps", "100", "--most_kb_a_step", "400"],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=500,  # the watchdog
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "nothing grew" in done.stdout
