"""Running an answer's program on given inputs: the interface for any sandbox, and the local one."""

import contextlib
import functools
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from .isolation import LEVELS, Isolation, isolation_level, private_folder, python_command, remove_box
from .jail.launch import WALL_TIMEOUT
from .jail.start import Ended, SandboxError, run_jailed


class Slots:
    """Places for runs. A run of an answer that was slow before waits for those of answers that were not."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._quick_waiting = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, slow: bool = False) -> Iterator[None]:
        """Hold a place, waiting for one."""
        with self._changed:
            self._quick_waiting += not slow
            self._changed.wait_for(lambda: self._free > 0 and not (slow and self._quick_waiting))
            self._quick_waiting -= not slow
            self._free -= 1
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()


@functools.cache
def slots_of(pid: int, count: int) -> Slots:
    """The places of a process: a fork starts with places of its own, whatever was held at that moment."""
    return Slots(count)


__all__ = ["Limits", "LocalSandbox", "Outcome", "Sandbox", "SandboxError", "isolation_level"]

logger = logging.getLogger(__name__)
KILLED = (128 + 9, 128 + 24)  # SIGKILL and SIGXCPU: what the CPU limit ends a program with
ATTEMPTS = 3


@dataclass(frozen=True)
class Limits:
    """What one run of a program may use. Sizes in bytes, times in seconds."""

    cpu_s: int = 5
    wall_s: float = 12.0
    # All runs of one answer, CPU seconds or a wall time that ran out; the rest time out
    total_s: float = 60.0
    memory_bytes: int = 512 << 20  # address space, so a little more than what is used
    file_bytes: int = 16 << 20  # all that it may write into its own folder (in memory)
    output_bytes: int = 1 << 20  # of stdout, and as much of stderr; more ends the program
    threads: int = 32
    open_files: int = 64


COMPILE = Limits(cpu_s=20, wall_s=45, memory_bytes=2 << 30, file_bytes=64 << 20, threads=64)


@dataclass(frozen=True)
class Outcome:
    """How one run ended: `status` is ok, error, timeout, overflow (of the output) or compile (it did not)."""

    status: str
    stdout: str = ""
    stderr: str = ""


NO_TIME = Outcome("timeout", stderr="no time left for this run")


@runtime_checkable
class Sandbox(Protocol):
    """What `code` needs of a sandbox; a remote one takes the place of the local one by having this method."""

    def run(self, source: str, language: str, stdins: Sequence[str], limits: Limits) -> Iterable[Outcome]:
        """Run a one-file program ("python" or "cpp") in a fresh process per input; outcomes in their order.

        Outcomes may come lazily: the caller stops asking when the verdict is settled.
        """
        ...  # pragma: no cover


@dataclass(frozen=True)
class LocalSandbox:
    """Runs programs on this machine, each behind everything that `isolation_level()` states.

    It is the only thing between code written by a model and your files, so it starts only where
    `allow_local_execution` says that you know, and where the isolation is at least `least_isolation`.
    """

    allow_local_execution: bool = False
    least_isolation: str = "filters"
    at_most: str = "namespaces"  # a lower level on purpose: to test it, or where namespaces are too slow
    workers: int = 0  # runs at a time; 0: one per core, at most 8

    def isolation(self) -> Isolation:
        """What is in force, or an error that says what is missing."""
        if sys.platform != "linux":
            raise SandboxError("programs run locally on Linux only; name a `provider` that runs them elsewhere")
        if not self.allow_local_execution:
            raise PermissionError(
                "the code reward would run programs written by a model on this machine. Set "
                "`allow_local_execution: true` to accept that (docs/code_reward.md says what isolates them), "
                "or name a `provider` that runs them elsewhere."
            )
        found = isolation_level(self.at_most)
        if LEVELS.index(found.level) > LEVELS.index(self.least_isolation):
            raise SandboxError(
                f"{found} That is below least_isolation={self.least_isolation!r}; run where namespaces, or "
                f"Landlock and seccomp, are allowed, name a `provider`, or lower least_isolation."
            )
        announce(found)
        return found

    def run(self, source: str, language: str, stdins: Sequence[str], limits: Limits) -> Iterator[Outcome]:
        """Run the program on every input. A program that cannot load is run once, not once per input."""
        isolation = self.isolation()
        workers = self.workers or min(8, os.cpu_count() or 1)
        slots = slots_of(os.getpid(), workers)
        with private_folder() as private, ThreadPoolExecutor(workers) as pool:
            with slots.taken():
                argv = prepare(isolation, private, source, language)
            if isinstance(argv, Outcome):
                yield from [argv] * len(stdins)
                return
            spent: list[float] = []  # seconds of the runs so far, in any order
            # Deep recursion is the C++ answer's right.
            stack_bytes = 64 << 20 if language == "cpp" else 8 << 20

            def one(stdin: str) -> tuple[Outcome, float]:
                if sum(spent) >= limits.total_s:
                    return NO_TIME, 0.0
                with slots.taken(slow=sum(spent) > limits.cpu_s):
                    ended = run(isolation, private, argv, stdin.encode(), limits, stack_bytes)
                seconds = limits.wall_s if ended.exit_code == WALL_TIMEOUT else ended.cpu_s
                spent.append(seconds)
                return outcome(ended), seconds

            first, total = one(stdins[0])
            yield first
            if cannot_load(first):
                yield from [first] * (len(stdins) - 1)
                return
            for result, seconds in pool.map(one, stdins[1:]):
                # In their order, so that it does not depend on which run ended first.
                yield result if total < limits.total_s else NO_TIME
                total += seconds


def prepare(isolation: Isolation, private: Path, source: str, language: str) -> list[str] | Outcome:
    """Put the program in its folder: the command that runs it, or how its compilation failed."""
    if language == "python":
        (private / "app" / "main.py").write_text(source, encoding="utf-8", errors="replace")
        return python_command()
    compiler = cpp_compiler()
    if compiler is None:
        return Outcome("compile", stderr="no g++ on the PATH")
    check_compiler(isolation)
    return compiled(isolation, private, compiler, source)


def compiled(isolation: Isolation, private: Path, compiler: str, source: str) -> list[str] | Outcome:
    """Compile a C++ program in the jail: `#include "/etc/passwd"` and endless templates are hostile, too."""
    (private / "app" / "main.cpp").write_text(source, encoding="utf-8", errors="replace")
    # gnu++2a: C++20 by the name that g++ 8 and 9 know it by as well.
    argv = [compiler, "-std=gnu++2a", "-O2", "-o", "{app}/program", "{app}/main.cpp"]
    ended = run(isolation, private, argv, b"", COMPILE, COMPILE.memory_bytes // 32, compiling=True)
    if ended.exit_code != 0 or not (private / "app" / "program").is_file():
        return replace(outcome(ended), status="compile")
    return ["{app}/program"]


def run(
    isolation: Isolation,
    private: Path,
    argv: list[str],
    stdin: bytes,
    limits: Limits,
    stack_bytes: int,
    compiling: bool = False,
) -> Ended:
    """One run in the jail. A jail that could not be set up is tried again: the program had not started."""
    sizes = {name: getattr(limits, name) for name in ("cpu_s", "wall_s", "memory_bytes", "file_bytes")}
    sizes |= {"open_files": limits.open_files, "threads": limits.threads, "stack_bytes": stack_bytes}
    for attempt in range(1, ATTEMPTS + 1):
        plan = isolation.layers.plan(private, argv, compiling) | sizes
        try:
            return run_jailed(plan, stdin, limits.output_bytes)
        except SandboxError:
            if attempt == ATTEMPTS:
                raise
            time.sleep(0.2 * attempt)  # the machine may be out of processes or memory for a moment
        finally:
            remove_box(plan["box"])
    raise AssertionError("unreachable")


def outcome(ended: Ended) -> Outcome:
    """An outcome for the judge from how a process ended."""
    status = "ok" if ended.exit_code == 0 else "error"
    if ended.exit_code == WALL_TIMEOUT or ended.exit_code in KILLED:
        status = "timeout"
    if ended.overflowed:
        status = "overflow"
    return Outcome(status, ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace"))


def cannot_load(first: Outcome) -> bool:
    """Whether Python could not even parse the program: such a report has no `Traceback` above it."""
    last = first.stderr.rstrip().rpartition("\n")[2]
    named = last.startswith(("SyntaxError", "IndentationError", "TabError"))
    return first.status == "error" and named and first.stderr.startswith("  File ")


@functools.cache
def check_compiler(isolation: Isolation) -> None:
    """A trial once per process: a broken compiler must not pass for answers that are all wrong."""
    compiler = cpp_compiler()
    assert compiler is not None
    with private_folder() as private:
        result = compiled(isolation, private, compiler, "#include <iostream>\nint main() { std::cout << 1; }\n")
    if isinstance(result, Outcome):
        raise SandboxError(f"g++ compiles nothing in the sandbox: {result.stderr.strip() or result.status}")


@functools.cache
def cpp_compiler() -> str | None:
    """The path of g++, None where there is none."""
    return shutil.which("g++")


@functools.cache
def announce(isolation: Isolation) -> None:
    """Say once per process what isolates the answers' code."""
    logger.warning("the code reward runs programs written by a model on this machine at %s", isolation)
