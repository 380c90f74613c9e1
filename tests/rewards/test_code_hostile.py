"""Programs that attack the judge or the machine.

Each prints "owned" where its attack worked, and "owned" is what the test expects of it: a score above 0 is a
break-out. Besides the score, the machine is looked at afterwards.

Each runs at the level `namespaces` and at `filters`, as far as this machine gives them, and only after a
probe has seen the layers in force. Where it gives neither, the reward refuses to run anything; that is
asserted then.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from omnirl_core.rewards.code.code import code
from omnirl_core.rewards.code.isolation import isolation_level
from omnirl_core.rewards.code.sandbox import Limits, LocalSandbox, SandboxError

pytestmark = pytest.mark.timeout(60)  # the watchdog
REPOSITORY = Path(__file__).parents[2]
LIMITS = Limits(cpu_s=1, wall_s=2.5, memory_bytes=256 << 20)
MARK = "omnirl-hostile-mark"

PROCESSES = {
    "fork bomb": "while True:\n  try: os.fork(); print('owned')\n  except OSError: pass",
    "polite fork bomb": "[os.fork() for _ in range(50)]; print('owned')",
    "thread bomb": """
import threading
threading.stack_size(32768)
for count in range(5000):
    try: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
    except RuntimeError: break
print('owned' if count > goal['tasks'] + 200 else count, flush=True)
os._exit(0)""",
    "shell": "import subprocess; subprocess.run(['/bin/sh', '-c', 'echo owned'])",
    "vfork": "os.posix_spawn('/bin/echo', ['echo', 'owned'], {}); time.sleep(0.5)",
    "multiprocessing": """
import multiprocessing
process = multiprocessing.get_context('fork').Process(target=print, args=('owned',))
process.start(); process.join()""",
    "daemon": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(100)
    os._exit(0)
print('owned')""",
    "new session": "os.setsid(); print('owned')",
}
SIGNALS = {
    "kill the caller": "os.kill(goal['caller'], 0); print('owned', flush=True); os.kill(goal['victim'], 9)",
    "kill a bystander": "os.kill(goal['victim'], 9); print('owned')",
    # Signal 0 first: should the filter let it through, this has shown it without ending the machine.
    "kill everyone": """
try: os.kill(-1, 0); print('owned')
except OSError: os.kill(-1, 15)""",
    "kill the group": """
try: os.killpg(0, 0); print('owned')
except OSError: os.kill(0, 9); os.kill(os.getppid(), 9)""",
    "pidfd": "signal.pidfd_send_signal(os.pidfd_open(goal['victim']), 9); print('owned')",
    "queued signal": "print('owned' if libc.sigqueue(goal['victim'], 9, 0) == 0 else '')",
    "signal by file owner": """
import fcntl
reader, writer = os.pipe()
fcntl.fcntl(reader, fcntl.F_SETOWN, goal['victim']); print('owned')""",
    "stop itself": "print('owned', flush=True); os.kill(os.getpid(), signal.SIGSTOP)",
    "deaf to signals": """
for number in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(number, lambda *_: None)
print('owned', flush=True)
while True: pass""",
    "lower the caller's limits": """
import resource
resource.prlimit(goal['victim'], resource.RLIMIT_CPU, (0, 0)); print('owned')""",
    "slow the caller": "os.setpriority(os.PRIO_PROCESS, goal['victim'], 19); print('owned')",
    "pin the caller": "os.sched_setaffinity(goal['victim'], {0}); print('owned')",
}
MEMORY_AND_TIME = {
    "one big block": "block = bytearray(2 << 30); print('owned')",
    "many small blocks": "blocks = [bytes(1 << 20) for _ in range(1000)]; print('owned')",
    "anonymous map": "import mmap; block = mmap.mmap(-1, 1 << 30); print('owned')",
    "memory file": "os.ftruncate(os.memfd_create('x'), 1 << 30); print('owned')",
    "zip bomb": """
import zlib
packer = zlib.compressobj(9, zlib.DEFLATED, -15)
block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
print('owned' if zlib.decompressobj(-15).decompress(block * 1000) else '')""",
    "huge integer": "print(10 ** 10 ** 8)",
    "deep recursion": """
sys.setrecursionlimit(10 ** 9)
def fall(n): return [fall(n + 1)]
fall(0); print('owned')""",
    "busy loop": "print('owned', flush=True)\nwhile True: pass",
    "endless sleep": "print('owned', flush=True); time.sleep(1000)",
    "sleep with closed pipes": "print('owned', flush=True); os.closerange(0, 3); time.sleep(1000)",
    "slow regex": "import re; re.match('(a+)+$', 'a' * 60 + 'b'); print('owned')",
    "raise its own limits": """
import resource
for name in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NPROC):
    resource.setrlimit(name, (resource.RLIM_INFINITY,) * 2); print('owned')""",
}
FILES = {
    "fill the disk": """
written = 0
for number, folder in enumerate(('.', '/tmp', '/box', '/app', '/dev/shm', '/var/tmp', goal['drop'])):
    try:
        for count in range(100):
            with open(f'{folder}/MARK-{number}-{count}', 'wb') as file:
                written += file.write(bytes(1 << 20))
    except OSError: pass
print('owned' if written > 20 << 20 else written)""",
    "many files": """
for count in range(20000):
    try: open(f'/tmp/MARK-{count}', 'w').close()
    except OSError: break
print('owned' if count > 5000 else count)""",
    "one huge sparse file": "file = open('/tmp/MARK', 'wb'); file.truncate(1 << 40); print('owned')",
    "many open files": "files = [os.dup(1) for _ in range(1000)]; print('owned')",
    "password file": "open('/etc/shadow').read(); print('owned')",
    "home": "print('owned' if len(os.listdir(goal['home'])) > 1 else '')",
    "a file with open doors": "open(goal['secret']).read(); print('owned')",
    "a link to a file": "os.symlink(goal['secret'], '/tmp/MARK'); open('/tmp/MARK').read(); print('owned')",
    "a hard link": "os.link(goal['secret'], '/tmp/MARK'); open('/tmp/MARK').read(); print('owned')",
    "write outside": "open(goal['drop'] + '/MARK', 'w').write('x'); print('owned')",
    "delete outside": "os.unlink(goal['secret']); print('owned')",
    "truncate outside": "os.truncate(goal['secret'], 0); print('owned')",
    "open to truncate": "os.open(goal['secret'], os.O_RDONLY | os.O_TRUNC); print('owned')",
    "lock outside": "os.chmod(goal['drop'], 0); print('owned' * (os.stat(goal['drop']).st_mode & 7 == 0))",
    "date outside": "os.utime(goal['secret'], (0, 0)); print('owned' * (os.stat(goal['secret']).st_mtime == 0))",
    "its own program": "open(__file__, 'w').write('print(\"owned\")'); print('owned')",
    "the caller's terminal": """
for path in (goal['terminal'], '/dev/tty'):
    try: open(path, 'w').write('x'); print('owned')
    except OSError: pass""",
}
OUTSIDE = {
    "the caller's environment": """
text = ''
for process in (goal['caller'], os.getppid(), 1, 'self'):
    try: text += open(f'/proc/{process}/environ').read()
    except OSError: pass
print('owned' if 'MARK' in text + str(dict(os.environ)) else '')""",
    "the caller's memory": "open(f\"/proc/{goal['victim']}/mem\", 'rb'); print('owned')",
    "the caller's files": "print('owned' if os.listdir(f\"/proc/{goal['caller']}/fd\") else '')",
    "trace": "print('owned' if libc.ptrace(16, goal['victim'], 0, 0) == 0 else '')",
    "read another's memory": "print('owned' if libc.process_vm_readv(goal['victim'], *[0] * 5) == 0 else '')",
    "tcp": "socket.create_connection(('127.0.0.1', goal['tcp']), 1); print('owned')",
    "udp": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', goal['tcp'])); print('owned')",
    "dns": "print('owned' if socket.getaddrinfo('example.com', 80) else '')",
    "abstract socket": "socket.socket(socket.AF_UNIX).connect('\\0' + goal['unix']); print('owned')",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); print('owned')",
    "io_uring": "print('owned' if libc.syscall(425, 8, ctypes.create_string_buffer(256)) >= 0 else '')",
    "x32 calls": "print('owned' if libc.syscall(0x40000000 | 41, 2, 1, 0) >= 0 else '')",
    "new namespaces": "print('owned' if 0 in (libc.unshare(0x10000000), libc.unshare(0x20000)) else '')",
    "become root": """
for attempt in (os.setgid, os.setuid):
    try: attempt(0)
    except OSError: pass
header = ctypes.create_string_buffer((0x20080522).to_bytes(4, 'little') + bytes(4))
sets = (ctypes.c_uint32 * 6)()
print('owned' if libc.capget(header, sets) == 0 and any(sets) else '')""",
    "the judge's package": f"""
for folder in ({str(REPOSITORY)!r}, *{[p for p in sys.path if p]!r}): sys.path.append(folder)
import omnirl_core; print('owned')""",
    "the judge's pipes": """
for number in range(64):
    try: os.write(number, b'ready' if number > 2 else b'')
    except OSError: continue
    if number > 2: print('owned')""",
}
OUTPUT = {
    "endless output": "while True: print('owned')",
    "endless line": "while True: sys.stdout.write('owned')",
    "endless errors": "print('owned', flush=True)\nwhile True: sys.stderr.write('owned' * 1000)",
    "endless input": "print('owned', flush=True)\nwhile True: sys.stdin.read()",
    "leave early": "os._exit(0)",
    "leave politely": "sys.exit(0)",
    "leave late": "import atexit; atexit.register(os._exit, 1); print('owned', flush=True)",
    "segmentation fault": "print('owned', flush=True); ctypes.string_at(0)",
    "abort": "print('owned', flush=True); os.abort()",
}
PROGRAMS = PROCESSES | SIGNALS | MEMORY_AND_TIME | FILES | OUTSIDE | OUTPUT
SETUP = """
import ctypes, json, os, signal, socket, sys, time
libc = ctypes.CDLL(None)
goal = json.load(sys.stdin)
"""


@dataclass(frozen=True)
class Tight:
    """The local sandbox with limits short enough for a test."""

    local: LocalSandbox

    def run(self, source, language, stdins, limits):
        return self.local.run(source, language, stdins, LIMITS)


@dataclass(frozen=True)
class Machine:
    """What a program could harm, and the checks that it has not."""

    goal: dict
    victim: subprocess.Popen
    listeners: list[socket.socket]
    terminal: int

    def check(self) -> None:
        """Fail if anything outside has changed or anything of the program is left."""
        assert self.victim.poll() is None
        assert [path.name for path in Path(self.goal["drop"]).iterdir()] == []
        assert Path(self.goal["secret"]).read_text() == "secret"
        assert Path(self.goal["drop"]).stat().st_mode & 0o777 == 0o777
        for folder in ("/tmp", "/dev/shm", "/var/tmp"):
            assert not [name for name in os.listdir(folder) if name.startswith(MARK)]
        for listener in self.listeners:
            with pytest.raises(BlockingIOError):
                listener.recv(1) if listener.type == socket.SOCK_DGRAM else listener.accept()
        with pytest.raises(BlockingIOError):
            os.read(self.terminal, 1)
        assert strays() == []


def strays(patience_s: float = 10.0) -> list[int]:
    """Processes with the sandbox's mark in their environment that do not go away."""
    left = {int(name) for name in os.listdir("/proc") if name.isdigit() and has_mark(name)}
    deadline = time.monotonic() + patience_s
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = {pid for pid in left if has_mark(str(pid))}
    return sorted(left)


def has_mark(pid: str) -> bool:
    try:
        return b"OMNIRL_RUN=" in Path("/proc", pid, "environ").read_bytes()
    except OSError:  # gone, or another user's
        return False


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    environment = pytest.MonkeyPatch()
    environment.setenv("OMNIRL_TEST_SECRET", MARK)
    with tempfile.TemporaryDirectory() as name, subprocess.Popen(["sleep", "600"]) as victim:
        folder = Path(name)
        folder.chmod(0o755)  # permissions stand open: only the sandbox may keep a program out
        (folder / "secret").write_text("secret")
        (folder / "secret").chmod(0o666)
        (folder / "temporary").mkdir(mode=0o755)
        environment.setattr(tempfile, "tempdir", f"{folder}/temporary")
        (folder / "drop").mkdir()
        (folder / "drop").chmod(0o777)
        tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        unix = socket.socket(socket.AF_UNIX)
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())
        unix.bind(f"\0{MARK}-{os.getpid()}")
        for listener in (tcp, unix):
            listener.listen()
        for listener in (tcp, udp, unix):
            listener.setblocking(False)
        goal = {"caller": os.getpid(), "victim": victim.pid, "tcp": tcp.getsockname()[1]}
        goal |= {"secret": f"{folder}/secret", "drop": f"{folder}/drop", "home": str(Path.home())}
        # Without a user or a user namespace of its own, a program's threads count with all of the caller's, so
        # the limit has to leave room for every task of the machine (test_sandbox.py holds the exact limit).
        goal["tasks"] = int(Path("/proc/loadavg").read_text().split()[3].split("/")[1])
        goal["unix"] = f"{MARK}-{os.getpid()}"
        terminal, shown = os.openpty()
        os.set_blocking(terminal, False)
        os.fchmod(shown, 0o666)
        goal["terminal"] = os.ttyname(shown)
        yield Machine(goal, victim, [tcp, udp, unix], terminal)
        victim.kill()
        for listener in (tcp, udp, unix):
            listener.close()
        os.close(terminal)
        os.close(shown)
    environment.undo()


def score(program: str, machine: Machine, level: str) -> float | None:
    source = SETUP + program.replace("MARK", MARK)
    solution = {"tests": [{"stdin": json.dumps(machine.goal), "stdout": "owned"}]}
    return code(source, solution, language="python", provider=Tight(LocalSandbox(True, at_most=level)))


def levels() -> list[str]:
    """The levels that this machine can enforce; where it is none, the reward must refuse to start."""
    found = []
    for level in ("namespaces", "filters"):
        try:
            isolation = isolation_level(level)
        except SandboxError:
            continue
        if isolation.level == level:
            assert isolation.reached == ()  # seen by a probe: now even a fork bomb may run
            found.append(level)
    if not found:
        with pytest.raises(SandboxError):
            LocalSandbox(True).isolation()
    return found


def scores(program: str, machine: Machine) -> dict[str, float | None]:
    """The score at each level, all at the same time."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(levels(), pool.map(partial(score, program, machine), levels()), strict=True))


def test_an_honest_program_passes_under_the_same_limits(machine):
    assert scores("print('owned')", machine) == dict.fromkeys(levels(), 1.0)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_hostile_program_is_contained(name, machine):
    assert scores(PROGRAMS[name], machine) == dict.fromkeys(levels(), 0.0)
    machine.check()
    assert os.listdir(tempfile.gettempdir()) == []


FORGERIES = {
    "leave with a marker": "print('PASS', True, 1.0)\nos._exit(0)",
    "equal to everything": """
class Same(int):
    __eq__ = lambda *_: True
    __hash__ = lambda *_: 0
    __ne__ = lambda *_: False
def f(x): return Same(0)""",
    "a string that is everything": "class Same(str):\n  __eq__ = lambda *_: True\ndef f(x): return Same()",
    "patched builtins": """
import builtins
builtins.len = builtins.isinstance = builtins.all = lambda *_: True
builtins.__import__ = None
def f(x): return None""",
    "patched json": "import json\njson.dumps = lambda *_: 'true'\ndef f(x): return 1",
    "patched modules": "sys.modules['json'] = sys.modules['os'] = None\ndef f(x): return None",
    "a traced judge": """
seen = []
sys.settrace(lambda frame, *_: seen.append(dict(frame.f_locals)))
def f(x): return next((frame['expected'] for frame in seen if 'expected' in frame), None)""",
    "a search of the frames": """
def f(x):
    frame = sys._getframe()
    while frame:
        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
            if isinstance(value, dict) and 'expected' in value: return value['expected']
        frame = frame.f_back""",
    "a search of the memory": """
import gc
def f(x):
    held = [value for one in gc.get_objects() for value in gc.get_referents(one)]
    held = [str(value) for value in held if type(value) in (int, str)]
    return [x, int([v for v in held if v.startswith('8675') and v.endswith('309')][0])]""",
    "all of stdin": "def f(x): return sys.stdin.read() or open(0).read()",
    "every open pipe": """
def f(x):
    for number in range(64):
        try: os.write(number, b'{"passed": true}')
        except OSError: pass
    os._exit(0)""",
    "nested ten thousand deep": "def f(x):\n  os.write(3, b'[' * 10000)\n  os._exit(0)",
    "a number of five thousand digits": "def f(x): return 10 ** 5000",
    "not a number": "def f(x): return float('nan')",
    "itself in itself": "def f(x):\n  x = []\n  x.append(x)\n  return x",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_verdict_cannot_be_forged(name, machine):
    """The expected value is in no reach of the answer, and what the answer hands in is only ever data."""
    tests = [{"call": "f", "args": [value], "expected": [value, 8675309]} for value in (1, 2)]
    for level in levels():
        sandbox = Tight(LocalSandbox(True, at_most=level))
        assert code("import os, sys\n" + FORGERIES[name], {"tests": tests}, provider=sandbox) == 0.0
    machine.check()


def test_one_run_leaves_nothing_for_the_next(machine):
    program = """
try: open('/tmp/MARK').read(); print('owned')
except OSError: open('/tmp/MARK', 'w').write('x')"""
    solution = {"tests": [{"stdin": "", "stdout": "owned"}] * 3}
    for level in levels():
        sandbox = Tight(LocalSandbox(True, at_most=level, workers=1))
        assert code(program.replace("MARK", MARK), solution, provider=sandbox) == 0.0
    machine.check()
