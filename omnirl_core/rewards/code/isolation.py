"""What stands between an answer's code and this machine: chosen by trying, stated by measuring.

Three levels, best first:

* `namespaces`: own process tree, unplugged network and small read-only file system, a seccomp filter, limits.
* `filters`: no namespaces (most containers): a Landlock fence, a seccomp filter, limits.
* `limits`: resource limits only. An answer can read, write and connect as the user that it runs as.
"""

import contextlib
import functools
import json
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from omnirl_core.types import JsonObject

from .jail import counting, walls
from .jail.start import SandboxError, interpreter, run_jailed

LEVELS = ("namespaces", "filters", "limits")
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache", "/etc/alternatives")
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the same answer gets the same score
    "MALLOC_ARENA_MAX": "1",  # glibc reserves 64 MB of address space per thread, which RLIMIT_AS counts
}
UNUSED_UIDS = (0x70000000, 0x7FFF0000)  # systemd's table of user ids calls this range unused
PROBE = """
import json, os, socket, sys
asked = json.load(sys.stdin)
def reaches(attempt):
    try:
        attempt()
    except OSError:
        return False
    return True
def start_process():
    if os.fork() == 0:
        os._exit(0)
print(json.dumps({
    "open a socket": reaches(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()),
    "start a process": reaches(start_process),
    "read outside": reaches(lambda: open(asked["readable"]).close()),
    "write outside": reaches(lambda: open(asked["writable"], "w").close()),
    "signal the caller": reaches(lambda: os.kill(asked["pid"], 0)),
}))
"""


@dataclass(frozen=True)
class Layers:
    """Which layers a program is started behind. All of them hold, or it does not start."""

    level: str
    change_user: bool

    def __str__(self) -> str:
        return f"{self.level!r}{' with a user of its own' if self.change_user else ''}"

    def plan(self, private: Path, argv: list[str], compiling: bool = False) -> JsonObject:
        """The part of a launch plan that the layers decide; `private` is the run's own folder."""
        uid, own_uid = spare_uid() if self.change_user else (None, False)
        app = private / "app"
        if compiling and uid is not None:
            os.chown(app, uid, -1)
        inside = Path("/app") if self.level == "namespaces" else app
        box = None if compiling else self.box(private, uid)
        temporary = "/box" if self.level == "namespaces" else box or "/tmp"
        return {
            "box": box,
            "namespaces": self.level == "namespaces",
            "landlock": self.level == "filters",
            "seccomp": self.level != "limits",
            "uid": uid,
            "own_uid": own_uid,
            "root": str(private / "root"),
            "app": str(app),
            "compiling": compiling,
            "readable": readable_paths(),
            "argv": [part.replace("{app}", str(inside)) for part in argv],
            # The token names the run: a stray process could be told by it.
            "env": {**ENVIRONMENT, "TMPDIR": str(inside) if compiling else temporary, "OMNIRL_RUN": private.name},
        }

    def box(self, private: Path, uid: int | None) -> str | None:
        """An empty folder for what one run writes, where the level has no file system in memory for it."""
        if self.level != "filters" or walls.landlock_version() < walls.TRUNCATES_SINCE or not counting.counts_writes():
            return None
        box = tempfile.mkdtemp(prefix="box-", dir=private)
        if uid is not None:
            os.chown(box, uid, -1)
        return box


@dataclass(frozen=True)
class Isolation:
    """What holds on this machine, and what a probe that ran behind it could still do."""

    level: str
    layers: Layers
    reached: tuple[str, ...]
    refused: tuple[str, ...] = ()  # why there is nothing better

    def __str__(self) -> str:
        means = {
            "namespaces": "own process, network, mount, IPC and host-name namespaces, a seccomp filter",
            "filters": "a Landlock fence around files, a seccomp filter, no namespaces",
            "limits": "resource limits ONLY",
        }[self.level]
        user = "a user of its own" if self.layers.change_user else f"user {os.getuid()} without capabilities"
        could = f"could {', '.join(self.reached)}" if self.reached else "reached nothing outside"
        return (
            f"isolation level {self.level!r}: {means}, {user}, an empty environment, limits on CPU, memory, "
            f"threads, files and output. A probe run behind it {could}. It shares this kernel: a hole in the "
            f"kernel is a hole in it." + "".join(f" Not {reason}." for reason in self.refused)
        )


@functools.cache
def isolation_level(at_most: str = "namespaces") -> Isolation:
    """The best isolation that this machine gives to answers' code, found by running a probe behind it.

    >>> isolation_level().level in ("namespaces", "filters", "limits")
    True
    """
    refused = []
    for level in LEVELS[LEVELS.index(at_most) :]:
        # A user of its own where root can give one, and where that user gets through to the interpreter.
        for change_user in (True, False) if os.getuid() == 0 else (False,):
            layers = Layers(level, change_user)
            if level == "limits" and not change_user and os.getuid() == 0:
                refused.append(f"{layers}: root, whom no limit on processes binds")
                continue
            try:
                reached = probe(layers)
            except SandboxError as error:
                refused.append(f"{layers}: {str(error).rpartition(chr(10))[2]}")
                continue
            if level == "limits" or not reached:
                return Isolation(level, layers, reached, tuple(refused))
            refused.append(f"{layers}: the probe could {', '.join(reached)}")
    raise SandboxError("no way to run code here:\n" + "\n".join(refused))


def probe(layers: Layers) -> tuple[str, ...]:
    """Run the probe behind these layers and tell what it could do."""
    with tempfile.TemporaryDirectory(prefix="omnirl-probe-") as outside:
        os.chmod(outside, 0o777)  # only the layers may stand between the probe and these two files
        Path(outside, "readable").touch(mode=0o644)
        asked = {"readable": f"{outside}/readable", "writable": f"{outside}/writable", "pid": os.getpid()}
        with private_folder() as private:
            (private / "app" / "main.py").write_text(PROBE)
            limits = {"cpu_s": 5, "wall_s": 20, "memory_bytes": 1 << 29, "stack_bytes": 1 << 23}
            limits |= {"file_bytes": 1 << 20, "open_files": 64, "threads": 16}
            plan = layers.plan(private, python_command())
            ended = run_jailed(plan | limits, json.dumps(asked).encode(), 1 << 16)
    try:
        measured: Mapping[str, bool] = json.loads(ended.stdout)
    except ValueError as error:
        output = ended.stderr.decode(errors="replace").strip()
        raise SandboxError(f"Python does not run in it: {output}") from error
    return tuple(name for name, could in measured.items() if could)


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for one answer, removed with all that is in it: `app` for the program, `root` to mount on."""
    with tempfile.TemporaryDirectory(prefix="omnirl-code-", ignore_cleanup_errors=True) as name:
        private = Path(name)
        private.chmod(0o711)  # the program may run as another user, who must get through to `app`
        for part in (private / "app", private / "root"):
            part.mkdir()
            part.chmod(0o755)
        yield private


def python_command() -> list[str]:
    """How the jail runs a Python answer: standard library only, nothing written next to it."""
    # No limit on the digits of an integer: the CPU limit bounds them, and honest answers print big numbers.
    return [interpreter(), "-s", "-P", "-S", "-B", "-X", "int_max_str_digits=0", "{app}/main.py"]


def readable_paths() -> list[str]:
    """What a program may read: the system's libraries and programs, and this Python's."""
    library = {str(Path(sysconfig.get_path(name)).resolve().parent) for name in ("stdlib", "platstdlib")}
    paths = [*SYSTEM, interpreter(), *sorted(library), str(Path(sys.base_prefix, "lib").resolve())]
    stores = [store for store in ("/nix/store", "/gnu/store") if interpreter().startswith(store)]
    compiler = shutil.which("g++")
    if compiler and not os.path.realpath(compiler).startswith("/usr/"):
        paths.append(str(Path(os.path.realpath(compiler)).parents[1]))
    return list(dict.fromkeys(path for path in [*paths, *stores] if os.path.lexists(path)))


def spare_uid() -> tuple[int | None, bool]:
    """A user id for one run, and whether no one else has it; (None, False) where none is mapped here."""
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]

    def mapped(uid: int) -> bool:
        return any(first <= uid < first + count for first, _, count in ranges)

    low, high = UNUSED_UIDS
    if mapped(low) and mapped(high):
        return low + secrets.randbelow(high - low), True
    return (65534, False) if mapped(65534) else (None, False)


def remove_box(box: str | None) -> None:
    """Remove what a run wrote; `rm`, because a tree may be deeper than Python's recursion."""
    if box is None:
        return
    try:
        os.rmdir(box)
    except OSError:
        try:
            shutil.rmtree(box)
        except (OSError, RecursionError):
            subprocess.run(["rm", "-rf", box], check=False, timeout=60)
