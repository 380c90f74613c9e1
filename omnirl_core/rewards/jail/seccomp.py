"""A seccomp filter: which system calls a program in the jail may make.

It refuses what an answer to an exercise never needs: sockets, new processes, signals to others, tracing,
mounts, keys, shared memory. It is a list of refusals, not of permissions, so that every Python and libc works
under it; calls newer than the list are refused too.
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
setdomainname personality shmget shmat msgget semget mq_open mq_unlink memfd_create memfd_secret
fanotify_init mlock mlock2 mlockall setpriority ioprio_set sched_setaffinity sched_setscheduler
sched_setattr sched_setparam vhangup migrate_pages move_pages mbind vmsplice modify_ldt lookup_dcookie
nfsservctl _sysctl uselib ustat sysfs
"""
# Landlock does not cover modes, owners, times and attributes, nor (before ABI 3) truncation, so where no
# private mount tree stands between the program and the caller's own files, every call that changes a path is
# refused.
WRITES = """
creat truncate mkdir mkdirat rename renameat renameat2 unlink unlinkat rmdir link linkat symlink symlinkat
mknod mknodat chmod fchmod fchmodat chown fchown lchown fchownat setxattr lsetxattr fsetxattr removexattr
lremovexattr fremovexattr utime utimes futimesat utimensat
"""

CLONE_THREAD = 0x10000
CLONE_NEW_ANY = 0x7E020000  # every CLONE_NEW* flag
FCNTL_OWNER = (
    8,
    10,
    15,
)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: the kernel would send a signal to another process
IOCTL_TTY = (0x5412, 0x541C, 0x8901, 0x8902)  # TIOCSTI, TIOCLINUX type into a terminal; FIOSETOWN, SIOCSPGRP

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF opcodes, 32-bit words
ALLOW, KILL = 0x7FFF0000, 0x80000000
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


def refuse_if(
    name: str, index: int, code: int, values: tuple[int, ...], answer: int = REFUSE
) -> list[Instruction]:
    """Refuse one system call where an argument equals, or has a bit of, one of the values."""
    tests = [(code, len(values) - place, 0, value) for place, value in enumerate(values)]
    return rule(name, argument(index), *tests, (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, answer))


def allow_if(name: str, index: int, code: int, values: tuple[int, ...]) -> list[Instruction]:
    """Allow one system call only where an argument equals, or has a bit of, one of the values."""
    tests = [(code, len(values) - place, 0, value) for place, value in enumerate(values)]
    return rule(name, argument(index), *tests, (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW))


def instructions(processes: bool, threads: bool, writes: bool) -> list[Instruction]:
    """The filter for a program that may, or may not, start processes and threads and write files."""
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
        program += refuse_if("clone", 0, ANY_BIT, (CLONE_NEW_ANY,))
    else:
        program += rule("fork", (RETURN, 0, 0, REFUSE)) + rule("vfork", (RETURN, 0, 0, REFUSE))
        flags = (CLONE_THREAD,) if threads else ()
        program += allow_if("clone", 0, ANY_BIT, flags)
    for name in ("kill", "tkill", "tgkill"):  # a signal to oneself is how abort() ends a program
        program += allow_if(name, 0, EQUAL, own)
    program += allow_if("prlimit64", 0, EQUAL, (0, *own))  # no lowering of another process's limits
    program += refuse_if("fcntl", 1, EQUAL, FCNTL_OWNER) + refuse_if("ioctl", 1, EQUAL, IOCTL_TTY)
    if not writes:
        changing = (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC,)
        program += refuse_if("open", 1, ANY_BIT, changing) + refuse_if("openat", 2, ANY_BIT, changing)
        program += rule("openat2", (RETURN, 0, 0, ABSENT))  # its flags, too, are behind a pointer
    for name in (ALWAYS if writes else ALWAYS + WRITES).split():
        program += rule(name, (RETURN, 0, 0, REFUSE))
    return [*program, (RETURN, 0, 0, ALLOW)]


def install(processes: bool, threads: bool, writes: bool) -> None:
    """Put the filter on this process, for good; needs no_new_privs."""
    packed = b"".join(struct.pack("HBBI", *one) for one in instructions(processes, threads, writes))
    code = ctypes.create_string_buffer(packed)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(packed) // 8, ctypes.addressof(code)))
    kernel.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(header)))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
