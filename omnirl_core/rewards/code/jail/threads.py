"""Counting a program's threads where RLIMIT_NPROC does not: it counts per user, and does not bind root.

The program's seccomp filter asks at a listener before each new thread; the launcher answers in a thread.
"""

import _socket
import errno
import fcntl
import struct

RECEIVE, SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND
CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
QUESTION_BYTES = 80


def send(channel: _socket.socket, listener: int) -> None:
    """Hand the listener to the launcher."""
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", listener))
    channel.sendmsg([b"x"], [rights])


def answer(channel: _socket.socket, most: int) -> None:
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
