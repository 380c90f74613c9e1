"""scripts/gpu_check.sh from end to end with its tiny preset, on whatever device is there."""

import json
import subprocess
from pathlib import Path

from forked import environment, python

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.sh"


def check(out: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Its command with the tiny preset."""
    command = [str(SCRIPT), "--preset", "tiny", "--out", str(out), *arguments]
    given = environment(PYTHON=python())
    return subprocess.run(command, capture_output=True, text=True, timeout=500, env=given)


def test_parts_are_measured_once_and_reported_in_a_table(tmp_path):
    parts = ["--in-process", "--parts", "steps", "tuning", "gradients", "attention", "colocate"]
    done = check(tmp_path, *parts)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    (kept,) = tmp_path.glob("*.json")
    found = json.loads(kept.read_text())
    assert {part["status"] for part in found["parts"].values()} == {"done"}
    assert all(item["ours"]["status"] == "measured" for item in found["parts"]["steps"]["items"].values())
    assert "## Ways to train" in kept.with_suffix(".md").read_text()
    again = check(tmp_path, *parts)
    assert "all parts are measured" in again.stdout
    assert json.loads(kept.read_text())["parts"] == found["parts"]
