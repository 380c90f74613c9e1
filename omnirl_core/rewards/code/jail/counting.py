"""Counting what a program uses where no limit of the kernel does: its threads, and what it writes.

Threads: RLIMIT_NPROC counts per user, and does not bind root. The program's seccomp filter asks at a listener before
each new thread; the launcher answers in a thread.

Writing: where the program has a folder of the disk and no file system of its own, the kernel counts the bytes that it
writes by any call, also to files that it has removed; maps, which it does not count, are refused by the filter
(kernel.py).
"""

import _socket
import errno
import fcntl
import os
import struct

RECEIVE, SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND
CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
QUESTION_BYTES = 80
MOST_FILES = 1024  # as many as the tmpfs of the level `namespaces` holds
FILES_EVERY = 5  # patrols
LONGEST_PATH = 1000


def send_listener(channel: _socket.socket, listener: int) -> None:
    """Hand the listener to the launcher."""
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", listener))
    channel.sendmsg([b"x"], [rights])


def answer_threads(channel: _socket.socket, most: int) -> None:
    """Take the listener and let the program have `most` threads, the main one included, until it is gone."""
    _, rights, _, _ = channel.recvmsg(1, _socket.CMSG_SPACE(4))
    if not rights:
        return  # it ended, or has a limit of the kernel's
    (listener,) = struct.unpack("i", rights[0][2][:4])
    while True:
        question = bytearray(QUESTION_BYTES)
        try:
            fcntl.ioctl(listener, RECEIVE, question)
            number, task = struct.unpack_from("QI", question)
            error, flags = (0, CONTINUE) if threads_of(task) < most else (-errno.EAGAIN, 0)
            fcntl.ioctl(listener, SEND, struct.pack("QqiI", number, 0, error, flags))
        except OSError as gone:
            if gone.errno not in (errno.ENOENT, errno.EINTR):  # the thread that asked has been killed
                return


def threads_of(task: int) -> int:
    """Threads of the process that a task is of. OSError where it is gone."""
    with open(f"/proc/{task}/status") as file:
        return int(file.read().partition("\nThreads:")[2].split(None, 1)[0])


def counts_writes() -> bool:
    """Whether this kernel counts what a process writes."""
    return os.path.exists("/proc/self/io")


class WriteWatch:
    """Tells when a program has written more bytes, or made more files, than its plan gives it."""

    def __init__(self, pid: int, plan: dict):
        self.pid, self.box, self.uid = pid, plan["box"], plan["uid"]
        self.most_bytes = plan["file_bytes"] + 2 * plan["output_bytes"]  # counted, too: its output
        self.patrols = 0

    def over(self) -> bool:
        """Whether it has had too much; a count that cannot be read is too much."""
        self.patrols += 1
        if self.written() > self.most_bytes:
            return True
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return (ended or self.patrols % FILES_EVERY == 0) and self.too_many_files()

    def written(self) -> int:
        """Bytes written so far. Asked as the program's user: root without CAP_SYS_PTRACE may not look."""
        own = os.geteuid()
        if self.uid is not None:
            os.seteuid(self.uid)
        try:
            with open(f"/proc/{self.pid}/io") as file:
                counts = dict(line.split(": ") for line in file.read().splitlines())
            # Bytes handed to the kernel, and whole pages of the disk: one byte may take a page.
            return max(int(counts["wchar"]), int(counts["write_bytes"]))
        except PermissionError:  # between its change of user and its start
            return 0
        finally:
            if self.uid is not None:
                os.seteuid(own)

    def too_many_files(self) -> bool:
        """Whether its folder holds more files or blocks than it may, or too deep a tree."""
        found, taken, folders = 0, 0, [self.box]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        found += 1
                        taken += entry.stat(follow_symlinks=False).st_blocks * 512
                        if (
                            found > MOST_FILES
                            or taken > 2 * self.most_bytes
                            or len(entry.path) > len(self.box) + LONGEST_PATH
                        ):
                            return True
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
            except OSError:  # removed meanwhile
                continue
        return False
