"""Tables of programs at both levels of isolation: hostile ones reach nothing, honest ones get one verdict."""

import ctypes
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from omnirl_core.rewards.code.code import code
from omnirl_core.rewards.code.isolation import isolation_level
from omnirl_core.rewards.code.sandbox import Limits, LocalSandbox, SandboxError
from omnirl_core.rewards.reward import Reward

from .programs.honest import HONEST
from .programs.hostile import HOSTILE, SETUP, STARVE

pytestmark = [
    pytest.mark.timeout(200),  # the watchdog
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the programs name system calls by x86_64 numbers"),
]
TRY_EACH = """
found = []
for name, text in programs.items():
    def say(*words, name=name, **_):
        if words[:1] == ('owned',): found.append(name)
    try: exec(text, {**globals(), 'print': say, 'owned': lambda test: say('owned' if test else '')})
    except BaseException: pass
print(json.dumps(found))
"""

RUN_EACH = """
import contextlib, io, json, os, sys, threading
home, out = os.getcwd(), sys.stdout
for place, text in enumerate(programs):
    os.mkdir(f'{home}/{place}'); os.chdir(f'{home}/{place}')
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(BaseException):
        exec(text, {'__name__': '__main__'})
        for thread in threading.enumerate():
            if thread is not threading.main_thread() and not thread.daemon: thread.join()
    print(json.dumps([place, said.getvalue()]), file=out, flush=True)
"""


def levels() -> list[str]:
    found = []
    for level in ("namespaces", "filters"):
        try:
            found += [level] if isolation_level(level).level == level else []
        except SandboxError:
            continue
    return found


@pytest.fixture
def goal() -> Iterator[dict]:
    """What the hostile programs are after; looked at when they have ended."""
    libc = ctypes.CDLL(None)
    shm, msg, sem = libc.shmget(0, 4096, 0o1666), libc.msgget(0, 0o1666), libc.semget(0, 1, 0o1666)
    assert min(shm, msg, sem) >= 0
    with tempfile.TemporaryDirectory() as name, subprocess.Popen(["sleep", "300"]) as victim:
        os.chmod(name, 0o755)
        secret, drop = Path(name, "secret"), Path(name, "drop")
        secret.write_text("secret")
        secret.chmod(0o666)
        drop.mkdir()
        drop.chmod(0o777)
        dgram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        dgram.bind(f"{name}/dgram")
        os.chmod(f"{name}/dgram", 0o777)
        dgram.setblocking(False)
        before = libc.semctl(sem, 0, 12, 0), secret.stat().st_mtime
        yield {
            "shm": shm, "msg": msg, "sem": sem, "dgram": f"{name}/dgram", "victim": victim.pid,
            "secret": str(secret), "drop": str(drop),
        }  # fmt: skip
        with pytest.raises(BlockingIOError):
            dgram.recv(1)
        dgram.close()
        assert victim.poll() is None
        victim.kill()
        assert list(drop.iterdir()) == []
        assert secret.read_text() == "secret"
        assert (libc.semctl(sem, 0, 12, 0), secret.stat().st_mtime) == before
    assert libc.msgctl(msg, 0, 0) == libc.shmctl(shm, 0, 0) == libc.semctl(sem, 0, 0) == 0  # still there


@pytest.mark.parametrize("level", ["namespaces", "filters"])
def test_hostile_programs_read_write_and_reach_nothing(level, goal):
    if level not in levels():
        return
    quick = {name: text for name, text in HOSTILE.items() if name not in STARVE}
    names = list(quick)
    batches = [{name: quick[name] for name in names[at::8]} for at in range(8)]
    sandbox = LocalSandbox(True, at_most=level)
    for batch in batches:
        (outcome,) = sandbox.run(f"{SETUP}\nprograms = {batch!r}\n{TRY_EACH}", "python", [json.dumps(goal)], Limits())
        assert (outcome.status, outcome.stdout.strip()) == ("ok", "[]"), (level, outcome)


@pytest.mark.parametrize("level", ["namespaces", "filters"])
def test_hostile_programs_starve_nothing(level, goal, monkeypatch, tmp_path):
    if level not in levels():
        return
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    texts = [SETUP + text for text in STARVE.values()]
    solution = {"tests": [{"stdin": json.dumps(goal), "stdout": "owned"}]}
    provider = LocalSandbox(True, at_most=level)
    reward = Reward("code", code, settings={"provider": provider, "workers": 8, "timeout_s": 3.0}, reads="completion")
    scores = dict(zip(STARVE, reward(completions=texts, solution=[solution] * len(texts)), strict=True))
    assert scores == dict.fromkeys(STARVE, 0.0)
    assert os.listdir(tmp_path) == []


def printed_in_one_process(sandbox: LocalSandbox, programs: list[str]) -> dict[str, str]:
    """What programs print that run one after another in one process of the sandbox, as far as it comes."""
    source = f"programs = {programs!r}\n{RUN_EACH}"
    (outcome,) = sandbox.run(source, "python", [""], Limits(cpu_s=20, wall_s=60.0))
    lines = [json.loads(line) for line in outcome.stdout.splitlines() if line.startswith("[")]
    return {programs[place]: text for place, text in lines}


def passes(printed: str | None, expected: str) -> bool:
    return printed is not None and printed.split() == expected.split()


@pytest.mark.parametrize("level", ["namespaces", "filters"])
def test_honest_programs_get_the_same_verdict_at_every_level(level):
    """Most share a process; one that fails there (it ends the process, writes to descriptor 1) is judged alone."""
    if level not in levels():
        return
    assert len(HONEST) >= 100
    sandbox = LocalSandbox(True, at_most=level)
    texts = list(HONEST)
    printed: dict[str, str] = {}
    for at in range(6):
        printed |= printed_in_one_process(sandbox, texts[at::6])
    alone = [text for text in texts if not passes(printed.get(text), HONEST[text])]
    assert len(alone) <= 40
    solutions = [{"tests": [{"stdin": "", "stdout": HONEST[text]}]} for text in alone]
    reward = Reward("code", code, settings={"provider": sandbox, "workers": 16}, reads="completion")
    scores = reward(completions=alone, solution=solutions)
    assert [text for text, score in zip(alone, scores, strict=True) if score != 1.0] == []


def test_an_endless_program_does_not_hold_up_the_others():
    """Its tests wait for those of quick programs, whatever the order of the batch."""
    level = levels()[:1]
    if not level:
        return
    ended: list[str] = []

    class Watched(LocalSandbox):
        def run(self, source, language, stdins, limits):
            for outcome in super().run(source, language, stdins, replace(limits, cpu_s=1, wall_s=4.0)):
                ended.append(source)
                yield outcome

    tests = {"tests": [{"stdin": str(n), "stdout": str(n)} for n in range(2)]}
    programs = ["while True: pass", *(f"print(int(input()))  # {n}" for n in range(3))]
    settings = {"provider": Watched(True, at_most=level[0]), "workers": 4}
    reward = Reward("code", code, settings=settings, reads="completion")
    assert reward(completions=programs, solution=[tests] * 4) == [0.0, *[1.0] * 3]
    assert ended[-1] == programs[0]
