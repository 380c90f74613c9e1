"""The local sandbox: what it states is what holds, its limits, and what it does when it cannot hold."""

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from omnirl_core.rewards.code import isolation
from omnirl_core.rewards.code import sandbox as module
from omnirl_core.rewards.code.isolation import LEVELS, isolation_level, probe
from omnirl_core.rewards.code.jail import kernel
from omnirl_core.rewards.code.jail.launch import thread_limit
from omnirl_core.rewards.code.jail.start import interpreter
from omnirl_core.rewards.code.sandbox import Limits, LocalSandbox, SandboxError

pytestmark = pytest.mark.timeout(60)  # the watchdog
LIMITS = Limits(cpu_s=2, wall_s=5.0)


def available() -> list[str]:
    """The levels that this machine gives."""
    found = []
    for level in LEVELS:
        try:
            found += [level] if isolation_level(level).level == level else []
        except SandboxError:
            continue
    return found


def run(program: str, level: str, stdin: str = "", limits: Limits = LIMITS) -> module.Outcome:
    sandbox = LocalSandbox(True, least_isolation="limits", at_most=level)
    return next(iter(sandbox.run(program, "python", [stdin], limits)))


def test_the_levels_promise_what_a_probe_measures():
    for level in available():
        found = isolation_level(level)
        assert found.level == level
        assert probe(found.layers) == found.reached
        assert level == "limits" or found.reached == ()
        assert repr(level) in str(found)


def test_a_program_knows_nothing_of_its_caller(monkeypatch):
    monkeypatch.setenv("OMNIRL_TEST_SECRET", "x")
    for level in available():
        reported = run("import os, json; print(json.dumps([dict(os.environ), os.getcwd(), os.getuid()]))", level)
        environment, folder, uid = json.loads(reported.stdout)
        assert set(environment) <= {
            "PATH",
            "LANG",
            "PYTHONHASHSEED",
            "MALLOC_ARENA_MAX",
            "TMPDIR",
            "OMNIRL_RUN",
            "LC_CTYPE",
        }
        assert Path.cwd() != Path(folder)
        if isolation_level(level).layers.change_user:
            assert uid not in (0, os.getuid())


def test_limits_hold_at_every_level():
    """Also at `limits`, which holds nothing else."""
    programs = {
        "while True: pass": "timeout",
        "import time; time.sleep(100)": "timeout",
        "while True: print('x' * 1000)": "overflow",
        "import sys\nwhile True: sys.stderr.write('x' * 1000)": "overflow",
        "x = bytearray(1 << 31)": "error",
        "import os; [os.dup(1) for _ in range(1000)]": "error",
        "import ctypes; ctypes.string_at(0)": "error",
    }
    limits = replace(LIMITS, cpu_s=1, wall_s=2.0)
    for level in available():
        for program, status in programs.items():
            assert run(program, level, limits=limits).status == status, (level, program)


def test_threads_are_limited():
    bomb = """
import os, threading, time
threading.stack_size(32768)
for count in range(3000):
    try: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
    except RuntimeError: break
print(count, flush=True); os._exit(0)"""
    for level in available():
        layers = isolation_level(level).layers
        plan = layers.plan(Path("/"), []) | {"threads": LIMITS.threads}
        assert int(run(bomb, level).stdout) <= thread_limit(plan) + (50 if level != "namespaces" else 0)


def test_nothing_outlives_a_program_even_without_namespaces_and_filters():
    daemon = "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: time.sleep(50)\n  os._exit(0)"
    for level in available():
        outcome = run(daemon, level)
        assert outcome.status == ("ok" if level == "limits" else "error")
        wait_for(strays())


def strays(token: str = "") -> list[Path]:
    """Processes of a sandbox, by the mark in their environment."""
    return [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and has_mark(entry, token)]


def has_mark(process: Path, token: str = "") -> bool:
    try:
        return f"OMNIRL_RUN={token}".encode() in (process / "environ").read_bytes()
    except OSError:  # gone, or another user's
        return False


def wait_for(processes: list[Path]) -> None:
    """Wait for processes to end; those of another test that runs beside this one do."""
    deadline = time.monotonic() + 20
    while any(map(has_mark, processes)):
        assert time.monotonic() < deadline, processes
        time.sleep(0.02)


def test_honest_programs_get_what_they_need():
    programs = {
        "print(input() + input())": "ab",
        "import sys; print(len(sys.stdin.read()))": "3",
        "import threading\nt = threading.Thread(target=print, args=('ab',)); t.start(); t.join()": "ab",
        "import sys, threading\nsys.setrecursionlimit(10 ** 6); threading.stack_size(1 << 27)\n"
        "def f(n): return f(n - 1) if n else print('ab')\n"
        "t = threading.Thread(target=f, args=(50000,)); t.start(); t.join()": "ab",
        "import asyncio\nasync def f(): print('ab')\nasyncio.run(f())": "ab",
        "import decimal, fractions, heapq, bisect, re, random, itertools, collections, statistics; print('ab')": "ab",
        "print(len(str(10 ** 20000)))": "20001",
        "x = [0] * 10_000_000; print('ab')": "ab",
        "import os; os.close(0); print('ab')": "ab",
        "print({1, 'a', None} and 'ab')": "ab",
        "print('ü中')": "ü中",
    }
    for level in available():
        for program, expected in programs.items():
            outcome = run(program, level, "a\nb")
            assert (outcome.status, outcome.stdout.strip()) == ("ok", expected), (
                level,
                program,
                outcome.stderr,
            )


def test_files_only_in_a_private_folder_of_limited_size():
    write = "open('{}/x', 'w').write('x' * {}); print(open('{}/x').read(1))"
    if "namespaces" in available():
        assert run(write.format("/tmp", 1000, "/tmp"), "namespaces").stdout == "x\n"
        assert run(write.format(".", 1000, "."), "namespaces").stdout == "x\n"
        assert run(write.format("/tmp", 20 << 20, "/tmp"), "namespaces").status == "error"
        assert run(write.format("/app", 1, "/app"), "namespaces").status == "error"
    if "filters" in available():
        assert run(write.format("/tmp", 1, "/tmp"), "filters").status == "error"
        assert run(write.format(".", 1000, "."), "filters").stdout == "x\n"
        assert run(write.format(".", 20 << 20, "."), "filters").status == "error"


def test_great_input_and_output_do_not_block():
    for level in available()[:1]:
        text = "x" * 5_000_000
        limits = replace(LIMITS, output_bytes=8 << 20)
        assert run("import sys; sys.stdout.write(sys.stdin.read())", level, text, limits).stdout == text
        assert run("print('deaf')", level, text).stdout == "deaf\n"
        assert run("import os; os.close(0); print('deaf')", level, text).stdout == "deaf\n"
        both = "import sys\nfor _ in range(100): sys.stderr.write('e' * 9000); sys.stdout.write('o' * 9000)"
        assert run(both, level, text).stdout == "o" * 900_000


def test_output_is_the_same_one_at_a_time_and_together():
    for level in available()[:1]:
        inputs = [str(n) for n in range(12)]
        program = "n = int(input()); print(n, hash('text'), 1 // (n % 5))"
        alone = [run(program, level, stdin) for stdin in inputs]
        together = list(LocalSandbox(True, "limits", level, workers=4).run(program, "python", inputs, LIMITS))
        assert [(one.status, one.stdout) for one in together] == [(one.status, one.stdout) for one in alone]


def test_a_program_that_cannot_load_runs_once(monkeypatch):
    runs = []
    honest = module.run_jailed
    monkeypatch.setattr(module, "run_jailed", lambda *args: runs.append(1) or honest(*args))
    for level in available()[:1]:
        outcomes = list(LocalSandbox(True, "limits", level).run("def f(", "python", [""] * 9, LIMITS))
        assert [one.status for one in outcomes] == ["error"] * 9
        assert len(runs) == 1


def test_the_time_of_one_answer_is_limited_over_all_its_runs():
    for level in available()[:1]:
        limits = replace(LIMITS, wall_s=1.0, total_s=1.0)
        sandbox = LocalSandbox(True, "limits", level, workers=1)
        outcomes = list(sandbox.run("import time; time.sleep(50)", "python", [""] * 50, limits))
        assert [one.status for one in outcomes] == ["timeout"] * 50
        assert outcomes[-1].stderr == "no time left for this run"


def test_a_caller_that_stops_asking_leaves_nothing():
    for level in available()[:1]:
        outcomes = LocalSandbox(True, "limits", level).run("print(1)", "python", [""] * 100, LIMITS)
        assert next(outcomes).stdout == "1\n"
        outcomes.close()
        assert threading.active_count() == 1 or not [t for t in threading.enumerate() if "ThreadPool" in t.name]


def test_a_dead_caller_takes_its_programs_along():
    """SIGKILL to the trainer must not leave an answer running."""
    for level in available():
        script = (
            "from omnirl_core.rewards.code.sandbox import *\n"
            f"s = LocalSandbox(True, 'limits', {level!r}, workers=1); s.isolation(); print('up', flush=True)\n"
            "list(s.run('import time; time.sleep(50)', 'python', [''], Limits(wall_s=60)))"
        )
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            environment = os.environ | {"TMPDIR": folder}
            command = [sys.executable, "-c", script]
            with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as caller:
                assert caller.stdout is not None
                assert caller.stdout.readline() == b"up\n"
                running: list[Path] = []
                while not running:  # the watchdog ends this
                    running = [process for token in os.listdir(folder) for process in strays(token)]
                caller.kill()
            wait_for(running)


def test_isolation_is_stated_once(caplog):
    for level in available()[:1]:
        module.announce.cache_clear()
        with caplog.at_level(logging.WARNING, logger="omnirl_core.rewards.code.sandbox"):
            run("print(1)", level)
            run("print(1)", level)
        assert [str(isolation_level(level)) in record.getMessage() for record in caplog.records] == [True]


def test_too_little_isolation_is_an_error_that_says_what_to_do():
    if "limits" in available():
        with pytest.raises(SandboxError, match="least_isolation"):
            LocalSandbox(True, at_most="limits").isolation()
    else:
        with pytest.raises(SandboxError, match="no way to run code here"):
            isolation_level("limits")


def test_a_layer_that_fails_stops_the_program(tmp_path):
    """A plan is carried out whole or not at all: here the mount point is missing."""
    if "namespaces" not in available():
        return
    layers = isolation_level().layers
    (tmp_path / "app").mkdir()
    sizes = {"cpu_s": 1, "wall_s": 5, "memory_bytes": 1 << 28, "stack_bytes": 1 << 23, "file_bytes": 1 << 20}
    plan = layers.plan(tmp_path, [interpreter(), "-c", "print('ran')"]) | sizes | {"open_files": 64, "threads": 9}
    with pytest.raises(SandboxError, match="did not start"):
        module.run_jailed(plan, b"", 1000)


def test_a_level_is_not_claimed_where_the_probe_gets_out(monkeypatch):
    monkeypatch.setattr(isolation, "probe", lambda layers: ("open a socket",))
    if "limits" in available():
        assert isolation_level.__wrapped__().level == "limits"
    else:  # not even limits can be enforced here
        with pytest.raises(SandboxError, match="the probe could open a socket"):
            isolation_level.__wrapped__()


def test_the_system_call_table_is_the_kernel_headers_own():
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if header.exists():
        lines = [line.split() for line in header.read_text().splitlines() if line.startswith("#define __NR_")]
        numbers = {name.removeprefix("__NR_"): int(number) for _, name, number in lines}
        assert {name: pair[0] for name, pair in kernel.NUMBERS.items()} == {n: numbers.get(n) for n in kernel.NUMBERS}
    assert set(kernel.ALWAYS.split()) | set(kernel.WRITES.split()) <= set(kernel.NUMBERS)
