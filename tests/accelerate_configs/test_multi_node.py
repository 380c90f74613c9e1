"""The Slurm script as it stands, over two machines: network namespaces where they can be made, else the loopback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launching import finish, recipe, start

SRUN = """#!/bin/bash
# srun's part: one process a machine, each with its number
shift  # --kill-on-bad-exit=1
for node in 0 1; do
  env SLURM_NODEID=$node $(eval echo \\$IN_NODE_$node) "$@" &
done
status=0
for job in $(jobs -p); do wait $job || status=1; done
exit $status
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@pytest.fixture
def machines(monkeypatch):
    """How to run a command on each of two machines, and the first one's address."""
    names = [f"omnirl{os.getpid()}{end}" for end in "ab"]
    try:
        if shutil.which("ip") is None:
            raise OSError
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip(*f"link add wire0 netns {names[0]} type veth peer name wire0 netns {names[1]}".split())
        for place, name in enumerate(names):
            ip("-n", name, "addr", "add", f"10.91.0.{place + 1}/24", "dev", "wire0")
            ip("-n", name, "link", "set", "wire0", "up")
    except (OSError, subprocess.CalledProcessError):  # no iproute2, or not allowed
        yield {"IN_NODE_0": "", "IN_NODE_1": "", "FIRST": "127.0.0.1"}
    else:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "wire0")
        yield {
            "IN_NODE_0": f"ip netns exec {names[0]}",
            "IN_NODE_1": f"ip netns exec {names[1]}",
            "FIRST": "10.91.0.1",
        }
    finally:
        for name in names if shutil.which("ip") else []:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=20)


@pytest.mark.slow
def test_zero3_over_two_machines(machines, tmp_path):
    tools: Path = tmp_path / "slurm"
    tools.mkdir()
    hosts = f"#!/bin/bash\necho {machines['FIRST']}\necho second\n"
    for name, text in {"srun": SRUN, "scontrol": hosts}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    command = [
        "bash", "-c", f'PATH={tools}:$PATH exec bash accelerate_configs/multi_node_zero3.slurm "$@"', "slurm",
        *recipe(tmp_path, "--max_steps", "2"),
    ]  # fmt: skip
    slurm = {
        "PYTHON_EXEC": sys.executable,
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_JOB_NODELIST": "both",
    }
    code, printed = finish(start(command, **slurm, **machines), timeout_s=400)
    assert code == 0, printed[-8000:]
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["processes"], facts["engine"]) == (2, "zero3")
    assert (tmp_path / "run" / "model.safetensors").exists()
