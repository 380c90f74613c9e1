"""The outside of the jail: start one program, feed it, read it with a cap, and see it dead."""

import marshal
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from omnirl_core.types import JsonObject, Settings

GRACE_S = 10.0  # past the wall time, for the launcher to start and to clean up; then it is killed from here
CHUNK = 1 << 16
STDERR_KEPT = 4096
BOOT = "import sys; sys.path.append(sys.argv[1]); from jail.launch import main; sys.exit(main(sys.argv[2]))"


class SandboxError(RuntimeError):
    """The sandbox itself failed: the answer was not judged."""


@dataclass(frozen=True)
class Ended:
    """How a program ended, and what it wrote up to the cap."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    overflowed: bool
    cpu_s: float = 0.0  # of all its processes, the launcher included


def interpreter() -> str:
    """The real interpreter behind a virtual environment's link: it finds its library without pyvenv.cfg."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def run_jailed(plan: Settings, stdin: bytes, output_bytes: int) -> Ended:
    """Run a plan's program to its end. SandboxError where a layer of the jail could not be set up."""
    status_read, status_write = os.pipe()
    try:
        launcher = start_launcher(
            {**plan, "output_bytes": output_bytes, "parent": os.getpid(), "status": status_write}
        )
    except OSError as error:
        os.close(status_read)
        raise SandboxError(f"the sandbox did not start: {error}") from error
    finally:
        os.close(status_write)
    with os.fdopen(status_read, "rb", buffering=0) as status, launcher:
        exchange = Exchange(launcher, stdin, output_bytes)
        try:
            exchange.until(time.monotonic() + plan["wall_s"] + GRACE_S)
        finally:
            # Before the wait: while the dead launcher is not reaped, its group id cannot be anyone else's.
            os.killpg(launcher.pid, signal.SIGKILL)
            _, ended, usage = os.wait4(launcher.pid, 0)
            exit_code = launcher.returncode = os.waitstatus_to_exitcode(ended)
        os.set_blocking(status_read, False)
        report = status.read(CHUNK)
    stderr = bytes(exchange.stderr)
    if report != b"ready":
        output = (report or b"").decode() + stderr.decode(errors="replace")
        raise SandboxError(f"the sandbox did not start: {output.strip() or f'exit status {exit_code}'}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return Ended(exit_code, bytes(exchange.stdout), stderr[:STDERR_KEPT], exchange.overflowed, cpu_s)


def start_launcher(plan: JsonObject) -> subprocess.Popen:
    """Start the process that shuts itself in and becomes the program.

    No preexec_fn: the caller has threads and perhaps a GPU, and nothing of ours may run between fork and exec
    there. The launcher does all of it, in its own process.
    """
    return subprocess.Popen(
        [interpreter(), "-I", "-S", "-c", BOOT, str(Path(__file__).parents[1]), marshal.dumps(plan).hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(plan["status"],),
        env={},
        cwd="/",
        start_new_session=True,
    )


class Exchange:
    """The three pipes of a running program, none of which may block or fill memory."""

    def __init__(self, launcher: subprocess.Popen, stdin: bytes, output_bytes: int):
        self.launcher = launcher
        self.unsent = memoryview(stdin)
        self.output_bytes = output_bytes
        self.stdout, self.stderr = bytearray(), bytearray()
        self.overflowed = False

    def until(self, deadline: float) -> None:
        """Feed and read until the launcher has ended, or the deadline.

        The end is the launcher's, not the end of the pipes: a stray that holds one open cannot hold us.
        """
        ended = os.pidfd_open(self.launcher.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(ended, selectors.EVENT_READ)
                self.register(selector)
                while (left := deadline - time.monotonic()) > 0:
                    ready = {key.fd for key, _ in selector.select(left)}
                    for fd in ready - {ended}:
                        self.serve(selector, fd)
                    if ended in ready:
                        self.drain()
                        return
        finally:
            os.close(ended)

    def register(self, selector: selectors.BaseSelector) -> None:
        """Watch the pipes, without blocking on any."""
        process = self.launcher
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.out, self.err, self.into = process.stdout.fileno(), process.stderr.fileno(), process.stdin
        for fd in (self.out, self.err, self.into.fileno()):
            os.set_blocking(fd, False)
        selector.register(self.out, selectors.EVENT_READ)
        selector.register(self.err, selectors.EVENT_READ)
        if self.unsent:
            selector.register(self.into, selectors.EVENT_WRITE)
        else:
            self.into.close()

    def serve(self, selector: selectors.BaseSelector, fd: int) -> None:
        """Move one chunk through the pipe that is ready."""
        if fd in (self.out, self.err):
            if self.read(fd) == 0:  # its end
                selector.unregister(fd)
            return
        try:
            self.unsent = self.unsent[os.write(fd, self.unsent[:CHUNK]) :]
        except BrokenPipeError:  # the program does not want its input; that is its own affair
            self.unsent = self.unsent[:0]
        if not self.unsent:
            selector.unregister(self.into)
            self.into.close()

    def read(self, fd: int) -> int:
        """Read one chunk and give its length, -1 where none waits; beyond the cap, end the program."""
        try:
            chunk = os.read(fd, CHUNK)
        except BlockingIOError:
            return -1
        kept = self.stdout if fd == self.out else self.stderr
        kept += chunk[: max(0, self.output_bytes - len(kept))]
        if chunk and len(kept) >= self.output_bytes and not self.overflowed:
            self.overflowed = True
            # The launcher kills the program and cleans up. Not send_signal: it could reap, and free the id.
            os.kill(self.launcher.pid, signal.SIGTERM)
        return len(chunk)

    def drain(self) -> None:
        """Read what the pipes still hold."""
        for fd in (self.out, self.err):
            while not self.overflowed and self.read(fd) > 0:
                pass
