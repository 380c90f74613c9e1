"""Shut this process in as a plan says, then become the program.

`start.py` runs `main` in a fresh interpreter, once per run of a program, so it imports as little as it can. A
layer that the plan asks for and the kernel refuses is an OSError here, before the program has started; the
caller reads the traceback. Nothing degrades in silence.
"""

import _socket
import _thread
import marshal
import os
import resource
import signal
import time
from collections.abc import Callable

from . import counting, kernel, walls

WALL_TIMEOUT = 124  # exit status: the program was still there at the end of its wall time
FILE_LIMIT = 128 + signal.SIGXFSZ  # exit status: it wrote more than it may
# Between two looks at what a program has written, where no file system of its own limits that
PATROL_S = 0.01
NO_NEW_PRIVS, PDEATHSIG, SUBREAPER = 38, 1, 36
WATCHED = {signal.SIGCHLD, signal.SIGTERM}


def main(text: str) -> int:
    """Run the plan's program in the jail and give its exit status (128 + n for signal n)."""
    # From the same interpreter, and 10 ms sooner than importing json
    plan = marshal.loads(bytes.fromhex(text))
    kernel.prctl(PDEATHSIG, signal.SIGKILL)
    kernel.prctl(SUBREAPER, 1)  # a daemon's orphans come to us, not to the machine's init
    if os.getppid() != plan["parent"]:
        return WALL_TIMEOUT  # the caller died before it could take us along
    os.umask(0o022)
    os.set_inheritable(plan["status"], False)
    # Before the fork: an early SIGCHLD must wait, not get lost
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    nproc = thread_limit(plan)
    if plan["namespaces"]:
        walls.enter_namespaces(user=os.getuid() != 0)
    ours, its = _socket.socketpair()  # on which the program's side hands over its listener (counting.py)
    first = os.fork()
    if first == 0:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # if memory runs out, let it be the answer that dies and not the trainer
        if plan["namespaces"]:
            become_init(plan, nproc, its)
        become_program(plan, nproc, its)
    os.close(plan["status"])
    its.close()
    if not plan["namespaces"]:  # in one, the kernel counts
        _thread.start_new_thread(counting.answer_threads, (ours, plan["threads"]))
    over = counting.WriteWatch(first, plan).over if plan["box"] else None
    code = supervise(first, plan["wall_s"], over)
    sweep()
    return code


def thread_limit(plan: dict) -> int:
    """RLIMIT_NPROC for the program. It counts per user, so it leaves room for what the user runs already."""
    if kernel_counts(plan):
        return plan["threads"]
    with open("/proc/loadavg") as file:
        # Every task of the machine: an upper bound
        return plan["threads"] + int(file.read().split()[3].split("/")[1])


def kernel_counts(plan: dict) -> bool:
    """Whether RLIMIT_NPROC counts this program's threads and no others."""
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    fresh_count = plan["namespaces"] and os.getuid() != 0 and release >= (5, 14)  # counts per user namespace
    return fresh_count or plan["own_uid"]


def become_init(plan: dict, nproc: int, channel: _socket.socket) -> None:
    """Process 1 of the new pid namespace: builds the file system, runs the program, and all ends with it."""
    kernel.prctl(PDEATHSIG, signal.SIGKILL)
    owner = plan["uid"] if plan["uid"] is not None else os.getuid()
    walls.build_root(plan["root"], plan["readable"], plan["app"], plan["compiling"], plan["file_bytes"], owner)
    program = os.fork()
    if program == 0:
        become_program(plan, nproc, channel)
    os.close(plan["status"])
    while True:
        pid, status = os.wait()
        if pid == program:
            os._exit(exit_code(status))


def become_program(plan: dict, nproc: int, channel: _socket.socket) -> None:
    """Drop every privilege, take every limit, and exec."""
    counted = not plan["namespaces"] and not kernel_counts(plan)
    if not plan["namespaces"]:
        os.chdir(plan["box"] or plan["app"])
    if plan["uid"] is not None:
        os.setgroups([])
        os.setresgid(plan["uid"], plan["uid"], plan["uid"])
        os.setresuid(plan["uid"], plan["uid"], plan["uid"])
    drop_capabilities()
    kernel.prctl(NO_NEW_PRIVS, 1)
    kernel.prctl(PDEATHSIG, signal.SIGKILL)  # again: a change of user clears it
    if plan["landlock"]:
        writable = [plan["app"], "/dev/null"] if plan["compiling"] else ["/dev/null"]
        devices = [f"/dev/{name}" for name in walls.DEVICES]
        walls.fence([*plan["readable"], plan["app"], *devices], writable, plan["box"])
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these two, and exec would hand that on
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    limit(plan, nproc)
    if plan["seccomp"]:
        filter_program(plan, counted, channel)
    # `status` closes on exec: the caller sees "ready" and then its end, or the traceback of what failed.
    os.write(plan["status"], b"ready")
    try:
        os.execve(plan["argv"][0], plan["argv"], plan["env"])
    except OSError as error:
        os.write(plan["status"], f" but {plan['argv'][0]}: {error.strerror}".encode())
        os._exit(127)


def filter_program(plan: dict, counted: bool, channel: _socket.socket) -> None:
    """Install the seccomp filter, one that counts threads where nothing else does."""
    writes = "all" if plan["namespaces"] or plan["compiling"] else "folder" if plan["box"] else "none"
    if counted and not plan["compiling"]:
        try:
            counting.send_listener(channel, kernel.install_counted_filter(writes))
            return
        except OSError:
            pass  # the loose limit of `thread_limit` then, and for root none
    # No RLIMIT_NPROC binds root, so a program that had to stay root gets no threads.
    kernel.install_filter(plan["compiling"], threads=os.getuid() != 0, writes=writes)


def drop_capabilities() -> None:
    """Give up every capability, in the sets that exec looks at."""
    header = (0x20080522).to_bytes(4, "little") + bytes(4)  # _LINUX_CAPABILITY_VERSION_3, this process
    kernel.checked("capset", kernel.LIBC.capset(header, bytes(24)))


def limit(plan: dict, nproc: int) -> None:
    """Set every limit, soft and hard alike: what a program cannot raise, it cannot catch either."""
    seconds = plan["cpu_s"]
    writes = plan["namespaces"] or plan["compiling"] or plan["box"]
    limits = {
        # 1, not 0: a core_pattern that pipes into a crash reporter ignores 0 and would start it on the host.
        resource.RLIMIT_CORE: 1,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: plan["file_bytes"] if writes else 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_NOFILE: plan["open_files"],
        resource.RLIMIT_SIGPENDING: 256,
        resource.RLIMIT_STACK: plan["stack_bytes"],
        resource.RLIMIT_NPROC: nproc,
        resource.RLIMIT_AS: plan["memory_bytes"],
    }
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def supervise(pid: int, wall_s: float, over: Callable[[], bool] | None = None) -> int:
    """Wait for the program; kill it when its time is over, it wrote too much, or the caller says so (SIGTERM)."""
    deadline = time.monotonic() + wall_s
    while True:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            too_much = over is not None and over()  # before its last counts are gone with it
            status = os.waitpid(pid, 0)[1]
            return FILE_LIMIT if too_much else exit_code(status)
        left = deadline - time.monotonic()
        event = signal.sigtimedwait(WATCHED, left if over is None else min(left, PATROL_S)) if left > 0 else None
        terminated = event is not None and event.si_signo == signal.SIGTERM
        too_much = over is not None and over()
        if left <= 0 or terminated or too_much:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return FILE_LIMIT if too_much else WALL_TIMEOUT


def sweep() -> None:
    """Kill what the program left behind: with a pid namespace or a seccomp filter there is nothing."""
    for _ in range(1000):  # a fork storm is bounded by RLIMIT_NPROC, a sweep by this
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        for entry in os.listdir("/proc"):
            if entry.isdigit() and parent_of(entry) == os.getpid():
                os.kill(int(entry), signal.SIGKILL)


def parent_of(pid: str) -> int | None:
    """The parent of a process, None where it has just gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def exit_code(status: int) -> int:
    """A shell's exit status: 128 + n for signal n."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
