"""Forks stand for real processes: in what they are given, how they end, and who ends with them."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from forked import environment, python

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="processes are real ones here")

WHAT = """
import json, os, sys, random
import numpy as np
reported = [sys.argv[1:], os.getcwd(), os.environ["GIVEN"], sys.stdin.read(), "trl" in sys.modules, __name__]
print(json.dumps([*reported, random.random(), np.random.rand(), len(os.listdir("/proc/self/task"))]))
print("to stderr", file=sys.stderr)
"""
WAITS = "import time; print('ready', flush=True); time.sleep(600)"


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([python(), *arguments], capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize("way", ["-c", "-m", "script"])
def test_it_gets_what_a_process_gets(way, tmp_path):
    (tmp_path / "reported.py").write_text(WHAT)
    start = {"-c": ["-c", WHAT], "-m": ["-m", "reported"], "script": ["-u", str(tmp_path / "reported.py")]}[way]
    given = {"cwd": tmp_path, "env": environment(GIVEN="this"), "input": "asked"}
    done, again = (run(*start, "a", "b c", **given) for _ in range(2))
    assert (done.returncode, done.stderr) == (0, "to stderr\n")
    *reported, drawn, drawn_too, threads = json.loads(done.stdout)
    assert reported == [["a", "b c"], str(tmp_path), "this", "asked", True, "__main__"]
    assert threads == 1, "a lock that another thread held would be held for ever in a fork"
    assert [drawn, drawn_too] != json.loads(again.stdout)[-3:-1], "random numbers of its own"


def test_a_kernel_imports_from_its_working_folder():
    """IPython leaves the folder out where Python was started with `-P`."""
    assert run("-c", "import sys; print(sys.flags.safe_path)").stdout == "False\n"


def test_it_ends_as_a_process_ends():
    assert run("-c", "import sys; sys.exit(75)").returncode == 75
    assert run("-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)").returncode == -signal.SIGKILL
    assert run("-c", "import atexit; atexit.register(print, 'at exit')").stdout == "at exit\n"
    failed = run("-c", "raise KeyError('no such thing')")
    assert failed.returncode == 1
    assert failed.stderr.endswith("KeyError: 'no such thing'\n")
    said = run("-c", "import sys; sys.exit('a last word')")
    assert (said.returncode, said.stderr) == (1, "a last word\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_gets_the_signals(number):
    code = f"import os, time; print(os.getpid(), flush=True); {WAITS}"
    client = subprocess.Popen([python(), "-u", "-c", code], stdout=subprocess.PIPE, text=True)
    fork = psutil.Process(int(client.stdout.readline()))
    assert client.stdout.readline() == "ready\n"
    client.send_signal(number)
    assert client.wait(30) == -number
    psutil.wait_procs([fork], timeout=30)
    assert not fork.is_running()
    client.stdout.close()


def test_a_server_ends_with_the_processes_that_asked_for_it(tmp_path):
    code = (
        "import forked, subprocess\nforked.IMPORTED = ()\n"
        "print(subprocess.run([forked.python(), '-c', 'import os; print(os.getppid())']).returncode)"
    )
    given = {**os.environ, "OMNIRL_FORKED": str(tmp_path / "own"), "PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, timeout=120)
    server, code = done.stdout.split()
    assert code == "0"
    _, left = psutil.wait_procs([psutil.Process(int(server))] if psutil.pid_exists(int(server)) else [], 30)
    assert left == []
    assert not (tmp_path / "own" / "socket").exists()
