"""A seccomp filter: which system calls a program in the jail may make.

It refuses what an answer to an exercise never needs: sockets, new processes, signals to others, tracing,
mounts, keys, shared memory and queues, watches and leases on files. It is a list of refusals, not of
permissions, so that every Python and libc works under it; calls newer than the list are refused too.
"""

import ctypes
import errno
import os
import struct

from . import kernel

ALWAYS = """
socket io_uring_setup io_uring_enter io_uring_register rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open
pidfd_getfd pidfd_send_signal setsid setpgid ptrace process_vm_readv process_vm_writev process_madvise
process_mrelease kcmp perf_event_open bpf userfaultfd keyctl add_key request_key mount umount2 pivot_root
chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr unshare setns swapon swapoff reboot
kexec_load kexec_file_load init_module finit_module delete_module syslog acct quotactl quotactl_fd iopl
ioperm open_by_handle_at name_to_handle_at settimeofday clock_settime adjtimex clock_adjtime sethostname
setdomainname personality shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl
mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr memfd_create memfd_secret
inotify_init inotify_init1 inotify_add_watch io_setup io_submit io_getevents io_pgetevents io_cancel io_destroy
bind connect listen accept accept4 fanotify_init
mlock mlock2 mlockall setpriority ioprio_set sched_setaffinity sched_setscheduler
sched_setattr sched_setparam vhangup migrate_pages move_pages mbind vmsplice modify_ldt lookup_dcookie
nfsservctl _sysctl uselib ustat sysfs
"""
# Where no private mount tree stands between the program and the caller's own files, and no Landlock that covers
# truncation (ABI 3), every call that changes a path is refused.
WRITES = """
creat truncate mkdir mkdirat rename renameat renameat2 unlink unlinkat rmdir link linkat symlink symlinkat
mknod mknodat chmod fchmod fchmodat chown fchown lchown fchownat setxattr lsetxattr fsetxattr removexattr
lremovexattr fremovexattr utime utimes futimesat utimensat
"""

# Where Landlock leaves the program one folder of the disk: names and sizes are Landlock's to guard, the rest is
# refused, or, for modes and dates, which copying a file sets, answered as if done.
SPECIAL_FILES = """
mknod mknodat chown fchown lchown fchownat setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr
splice tee
"""
MODES_AND_DATES = "chmod fchmod fchmodat utime utimes futimesat utimensat"
MAP_SHARED, MAP_ANONYMOUS = 1, 0x20

CLONE_THREAD = 0x10000
CLONE_NEW_ANY = 0x7E020000  # every CLONE_NEW* flag
# F_SETOWN, F_SETSIG, F_SETOWN_EX (the kernel would signal another process), F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ
FCNTL_REFUSED = (8, 10, 15, 1024, 1026, 1031)
# F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW: answered as if taken. No other process can open the program's
# files, and on the host's files, which it can read, a lock would hold up others.
FCNTL_LOCKS = (6, 7, 37, 38)
# TCGETS, TCGETS2, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: what isatty(), os.set_inheritable and
# asyncio ask. Anything else may change a file (FS_IOC_SETFLAGS), type into a terminal or reach a driver.
IOCTL_ALLOWED = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# Unix stream pairs, with or without close-on-exec and non-blocking: asyncio needs one, and it reaches nobody.
# A datagram pair could send to the path of any socket.
STREAMS = (1, 1 | 0x80000, 1 | 0x800, 1 | 0x80800)

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF opcodes, 32-bit words
ALLOW, KILL, ASK = 0x7FFF0000, 0x80000000, 0x7FC00000
PRETEND = 0x00050000  # returns 0 and does nothing
REFUSE, ABSENT = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16  # offsets in struct seccomp_data
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def argument(index: int) -> Instruction:
    """Load the low half of one argument: every value tested here fits in 32 bits."""
    return (LOAD, 0, 0, ARGUMENTS_AT + 8 * index)


def rule(name: str, *body: Instruction) -> list[Instruction]:
    """`body` for one system call; it must return in all its branches."""
    call = kernel.number(name)
    return [] if call is None else [(EQUAL, 0, len(body), call), *body]


def rule_if(name: str, index: int, code: int, values: tuple[int, ...], then: int, otherwise: int) -> list[Instruction]:
    """Answer one system call by `then` where an argument equals, or has a bit of, one of the values."""
    tests = [(code, len(values) - place, 0, value) for place, value in enumerate(values)]
    return rule(name, argument(index), *tests, (RETURN, 0, 0, otherwise), (RETURN, 0, 0, then))


def fcntl_rule() -> list[Instruction]:
    """fcntl without owners, leases and watches; locks are answered as if taken."""
    answers = dict.fromkeys(FCNTL_LOCKS, PRETEND) | dict.fromkeys(FCNTL_REFUSED, REFUSE)
    body = [argument(1)]
    for value, answer in answers.items():
        body += [(EQUAL, 0, 1, value), (RETURN, 0, 0, answer)]
    return rule("fcntl", *body, (RETURN, 0, 0, ALLOW))


def file_rules(writes: str) -> list[Instruction]:
    """What a program may do to files: `all` of its private tree, in one `folder` (see launch.py), `none`."""
    refused = {"all": "", "folder": SPECIAL_FILES, "none": WRITES}[writes]
    program = [one for name in refused.split() for one in rule(name, (RETURN, 0, 0, REFUSE))]
    if writes == "all":
        return program
    program += rule("openat2", (RETURN, 0, 0, ABSENT))  # its flags are behind a pointer
    if writes == "none":
        changing = ANY_BIT, (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC,), REFUSE, ALLOW
        return program + rule_if("open", 1, *changing) + rule_if("openat", 2, *changing)
    for name in MODES_AND_DATES.split():
        program += rule(name, (RETURN, 0, 0, PRETEND))
    # What is written through a shared map, or laid out, is not counted as written (launch.py).
    program += rule("fallocate", (RETURN, 0, 0, REFUSE))
    return program + rule(
        "mmap",
        argument(3),
        (ANY_BIT, 0, 2, MAP_SHARED),
        (ANY_BIT, 1, 0, MAP_ANONYMOUS),
        (RETURN, 0, 0, REFUSE),
        (RETURN, 0, 0, ALLOW),
    )


def instructions(processes: bool, threads: bool, writes: str, counted: bool = False) -> list[Instruction]:
    """The filter for a program that may, or may not, start processes and threads and write files.

    `counted`: each new thread is asked for at the listener that `install` returns.
    """
    own = (os.getpid(),)
    program: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (EQUAL, 1, 0, ARCHITECTURES[os.uname().machine]),
        (RETURN, 0, 0, KILL),  # 32-bit calls have other numbers: they would walk around every rule below
        (LOAD, 0, 0, NUMBER_AT),
        (AT_LEAST, 0, 1, kernel.NEWEST_KNOWN + 1),  # newer calls, and the x32 ABI
        (RETURN, 0, 0, ABSENT),
    ]
    # clone3 hides its flags behind a pointer; told that it is absent, libc falls back to clone.
    program += rule("clone3", (RETURN, 0, 0, ABSENT))
    if processes:
        program += rule_if("clone", 0, ANY_BIT, (CLONE_NEW_ANY,), REFUSE, ALLOW)
    else:
        program += rule("fork", (RETURN, 0, 0, REFUSE)) + rule("vfork", (RETURN, 0, 0, REFUSE))
        flags = (CLONE_THREAD,) if threads or counted else ()
        program += rule_if("clone", 0, ANY_BIT, flags, ASK if counted else ALLOW, REFUSE)
    for name in ("kill", "tkill", "tgkill"):  # a signal to oneself is how abort() ends a program
        program += rule_if(name, 0, EQUAL, own, ALLOW, REFUSE)
    program += rule_if("prlimit64", 0, EQUAL, (0, *own), ALLOW, REFUSE)  # no lowering of another process's limits
    program += fcntl_rule() + rule("flock", (RETURN, 0, 0, PRETEND))
    program += rule_if("ioctl", 1, EQUAL, IOCTL_ALLOWED, ALLOW, REFUSE)
    program += rule_if("socketpair", 1, EQUAL, STREAMS, ALLOW, REFUSE)
    for name in ALWAYS.split():
        program += rule(name, (RETURN, 0, 0, REFUSE))
    return [*program, *file_rules(writes), (RETURN, 0, 0, ALLOW)]


def install(processes: bool, threads: bool, writes: str) -> None:
    """Put the filter on this process, for good; needs no_new_privs."""
    header = packed(instructions(processes, threads, writes))
    kernel.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(header)))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def install_counted(writes: str) -> int:
    """The same for a program that has to ask for each thread: the descriptor to answer at (counting.py).

    OSError where the kernel has no such filter (before Linux 5.5), or another one above it that asks.
    """
    header = packed(instructions(False, True, writes, counted=True))
    # SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER
    return kernel.syscall("seccomp", 1, 8, header)


def packed(program: list[Instruction]) -> ctypes.Array:
    """The filter as the kernel reads it: a length and a pointer; the buffers stay with the header."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    header.code = code  # type: ignore[attr-defined]
    return header
