"""Python processes that have torch, TRL and DeepSpeed imported when they start: each is a fork of one server.

`python()` is the path of a program that takes Python's own command line (`-u`, `-c CODE`, `-m MODULE` or a script).
It behaves as the process that it stands for: working folder, environment, open files, signals and exit code are its.
What a process prints while it imports, and what it measures of its own memory, needs a real one, `sys.executable`.

The server imports, starts no thread, and lives as long as a pytest process that has asked for it.
"""

import array
import atexit
import fcntl
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

IMPORTED = (
    "omnirl_tools.run", "omnirl_tools.evaluate", "omnirl_tools.sft", "deepspeed", "accelerate.commands.launch",
    "torch.distributed.run", "ipykernel.kernelapp", "omnirl_tools.report.notebook",
)  # fmt: skip
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
HOLD = {"hold": True}
HEADER = 8
START_S = 300.0
HELPERS = str(Path(__file__).parents[1] / "trainer")
"""What the processes share with the trainer's tests: conftest.py and tiny_models.py."""
_held: list[socket.socket] = []


def python() -> str:
    """Path of the program; a real Python where there is no pidfd, outside pytest, and where one is asked for."""
    is_forked = hasattr(os, "pidfd_open") and "OMNIRL_FORKED" in os.environ
    if not is_forked or os.environ.get("OMNIRL_REAL_PROCESSES"):
        return sys.executable
    folder = Path(os.environ["OMNIRL_FORKED"])
    if not _held:
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:  # of all pytest processes that share the folder, one starts it
            fcntl.flock(lock, fcntl.LOCK_EX)
            _start(folder)
    return str(folder / "python")


def environment(**more: str) -> dict[str, str]:
    """For a launcher: one thread a process, nothing fetched, ranks that are forks as well, and the trainer's helpers.

    Of this process's, less an override of the CPU's, which would switch DeepSpeed off.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    given = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu", "PYTHON_EXEC": python()}
    given["PYTHONPATH"] = os.pathsep.join(filter(None, [HELPERS, kept.get("PYTHONPATH")]))
    return {**kept, **given, **more}


def kernel(of_process: dict) -> dict:
    """A notebook's kernel as a fork, from how Jupyter starts a process for it; torchrun in it starts forks, too."""
    if python() == sys.executable:
        return of_process
    # it would end where its parent is not the process that asked for it; the server ends it with its client
    command = ["env", "-u", "JPY_PARENT_PID", python(), *of_process["argv"][1:]]
    given = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYTHON_EXEC": python()}
    return of_process | {"argv": command, "env": given}


def _start(folder: Path) -> None:
    program, path = folder / "python", folder / "socket"
    if not path.exists():
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{__file__}" fork "{path}" "$@"\n')
        program.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
        kept |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [sys.executable, __file__, "serve", str(path), *IMPORTED], env=kept, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + START_S
        while not path.exists():
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server of forks did not start: {(folder / 'log').read_text()}")
            time.sleep(0.05)
    _held.append(_connect(path, HOLD))


def _connect(path: Path | str, request: dict, files: tuple[int, ...] = ()) -> socket.socket:
    """A connection on which the request, and the open files with it, was sent."""
    server = socket.socket(socket.AF_UNIX)
    server.connect(str(path))
    text = json.dumps(request).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    server.sendmsg([len(text).to_bytes(HEADER, "big")], rights)
    server.sendall(text)
    return server


def stand_for(path: str, arguments: list[str]) -> None:
    """The program: have the server fork, pass signals on, and end as the fork ends."""
    own = {"environment": dict(os.environ), "folder": os.getcwd()}
    server = _connect(path, {"arguments": arguments, **own}, (0, 1, 2))
    answers = server.makefile()
    fork = int(answers.readline())
    for number in FORWARDED:
        signal.signal(number, lambda number, frame: os.kill(fork, number))
    code = int(answers.readline())
    if code < 0:
        with suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


class Server:
    """Forks at each request; a fork whose client is gone is killed."""

    def __init__(self, path: Path):
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{path}.new")
        self.listener.listen(64)
        self.events = selectors.DefaultSelector()
        self.events.register(self.listener, selectors.EVENT_READ, self._accept)
        self.holders: set[socket.socket] = set()
        self.clients: dict[int, socket.socket] = {}  # of each fork
        self.request: tuple[dict, list[int]] | None = None
        os.rename(f"{path}.new", path)  # it answers from here on

    def run(self) -> tuple[dict, list[int]] | None:
        """In a fork: what is asked of it. In the server, None, once nobody needs it."""
        while True:
            for key, _ in self.events.select():
                if key.fileobj in self.events.get_map():
                    key.data(key.fileobj)
                if self.request:
                    self.events.close()
                    self.listener.close()
                    return self.request
            if not self.holders and not self.clients:
                self.path.unlink()
                return None

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        header, files, _, _ = socket.recv_fds(client, HEADER, 3)
        left, text = int.from_bytes(header, "big"), b""
        while left > len(text) and (part := client.recv(left - len(text))):
            text += part
        if len(text) < left or not header:
            client.close()
            return
        request = json.loads(text)
        if request == HOLD:
            self.holders.add(client)
            self.events.register(client, selectors.EVENT_READ, self._let_go)
            return
        fork = os.fork()
        if not fork:
            for other in (*self.holders, *self.clients.values(), client):
                other.close()
            self.request = request, files
            return
        for file in files:
            os.close(file)
        self.clients[fork] = client
        client.sendall(f"{fork}\n".encode())
        ended = os.pidfd_open(fork)
        self.events.register(ended, selectors.EVENT_READ, lambda file: self._ended(fork, file))
        self.events.register(client, selectors.EVENT_READ, lambda client: self._gone(fork, client))

    def _let_go(self, holder: socket.socket) -> None:
        self.events.unregister(holder)
        self.holders.discard(holder)
        holder.close()

    def _gone(self, fork: int, client: socket.socket) -> None:
        self.events.unregister(client)
        os.kill(fork, signal.SIGKILL)

    def _ended(self, fork: int, file: int) -> None:
        self.events.unregister(file)
        os.close(file)
        code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
        client = self.clients.pop(fork)
        with suppress(KeyError):
            self.events.unregister(client)
        with suppress(OSError):
            client.sendall(f"{code}\n".encode())
        client.close()


def become(request: dict, files: list[int]) -> None:
    """Run the request's command line in this process, as Python does, and end it.

    Nothing is torn down at the end but what asked for it: to free all that is imported takes seconds.
    """
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    code = 0
    try:
        run(request["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        code = -signal.SIGINT
    except BaseException:  # noqa: BLE001  a fork must not go on into the server's code
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # none, a reader that is gone, or closed
            stream.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def run(arguments: list[str]) -> None:
    """What Python does with its command line."""
    import runpy

    import numpy as np

    np.random.seed()
    if "matplotlib" in sys.modules and "MPLBACKEND" in os.environ:  # read when the server imported it
        sys.modules["matplotlib"].rcParams["backend"] = os.environ["MPLBACKEND"]
    first, *rest = arguments[1:] if arguments[0] == "-u" else arguments
    is_unbuffered = arguments[0] == "-u" or bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdout.reconfigure(write_through=is_unbuffered, line_buffering=is_unbuffered)
    sys.path[:0] = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = rest
        sys.path.insert(0, os.getcwd())
        sys.modules.pop(rest[0], None)  # runpy warns of one that is imported already
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        if Path(first).is_file():  # a folder with a __main__.py is added by runpy
            sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")


def serve(path: Path, modules: list[str]) -> None:
    """Import all; then fork at each request, and end where no pytest process is left."""
    from functools import cache
    from importlib import import_module

    from omnirl_core.launch import silence_imports

    del sys.path[0]  # this file's folder; by `-P`, IPython in a fork would not import from its working folder
    silence_imports()
    for module in modules:
        import_module(module)
    # 1.15 reads packages' metadata at each step
    if accelerate := sys.modules.get("accelerate.utils.imports"):
        accelerate._is_package_available = cache(accelerate._is_package_available)
    gc.collect()
    gc.freeze()  # a collection would write to every page that the forks share
    asked = Server(path).run()
    if asked:
        become(*asked)


if __name__ == "__main__":
    what, where, *others = sys.argv[1:]
    if what == "serve":
        serve(Path(where), others)
    else:
        stand_for(where, others)
