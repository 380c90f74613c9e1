"""The kernel by numbers: system calls that Python 3.11 has no function for, and a filter of those of a program.

The seccomp filter says which calls a program in the jail may make. It refuses what an answer to an exercise never
needs: sockets, new processes, signals to others, tracing, mounts, keys, shared memory and queues, watches and leases
on files. It is a list of refusals, not of permissions, so that every Python and libc works under it; calls newer than
the list are refused too.
"""

import ctypes
import errno
import os
import struct

LIBC = ctypes.CDLL(None, use_errno=True)

# name: (x86_64, aarch64); None where the architecture has no such call. Source: the kernel's unistd_64.h and
# asm-generic/unistd.h. Only the calls that the jail makes or filters.
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "_sysctl": (156, None), "accept": (43, 202), "accept4": (288, 242), "acct": (163, 89),
    "add_key": (248, 217), "adjtimex": (159, 171), "bind": (49, 200), "bpf": (321, 280), "capset": (126, 91),
    "chmod": (90, None), "chown": (92, None), "chroot": (161, 51), "clock_adjtime": (305, 266),
    "clock_settime": (227, 112), "clone": (56, 220), "clone3": (435, 435), "connect": (42, 203),
    "creat": (85, None), "delete_module": (176, 106), "fallocate": (285, 47), "fanotify_init": (300, 262),
    "fchmod": (91, 52), "fchmodat": (268, 53), "fchown": (93, 55), "fchownat": (260, 54), "fcntl": (72, 25),
    "finit_module": (313, 273), "flock": (73, 32), "fork": (57, None), "fremovexattr": (199, 16),
    "fsconfig": (431, 431), "fsetxattr": (190, 7), "fsmount": (432, 432), "fsopen": (430, 430),
    "fspick": (433, 433), "futimesat": (261, None), "init_module": (175, 105), "inotify_add_watch": (254, 27),
    "inotify_init": (253, None), "inotify_init1": (294, 26), "io_cancel": (210, 3), "io_destroy": (207, 1),
    "io_getevents": (208, 4), "io_pgetevents": (333, 292), "io_setup": (206, 0), "io_submit": (209, 2),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "io_uring_setup": (425, 425),
    "ioctl": (16, 29), "ioperm": (173, None), "iopl": (172, None), "ioprio_set": (251, 30),
    "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219),
    "kill": (62, 129), "landlock_add_rule": (445, 445), "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446), "lchown": (94, None), "link": (86, None), "linkat": (265, 37),
    "listen": (50, 201), "lookup_dcookie": (212, 18), "lremovexattr": (198, 15), "lsetxattr": (189, 6),
    "mbind": (237, 235), "memfd_create": (319, 279), "memfd_secret": (447, 447), "migrate_pages": (256, 238),
    "mkdir": (83, None), "mkdirat": (258, 34), "mknod": (133, None), "mknodat": (259, 33),
    "mlock": (149, 228), "mlock2": (325, 284), "mlockall": (151, 230), "mmap": (9, 222),
    "modify_ldt": (154, None), "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429),
    "move_pages": (279, 239), "mq_getsetattr": (245, 185), "mq_notify": (244, 184), "mq_open": (240, 180),
    "mq_timedreceive": (243, 183), "mq_timedsend": (242, 182), "mq_unlink": (241, 181), "msgctl": (71, 187),
    "msgget": (68, 186), "msgrcv": (70, 188), "msgsnd": (69, 189), "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42), "open": (2, None), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "openat": (257, 56), "openat2": (437, 437), "perf_event_open": (298, 241), "personality": (135, 92),
    "pidfd_getfd": (438, 438), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41), "prlimit64": (302, 261), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "ptrace": (101, 117), "quotactl": (179, 60), "quotactl_fd": (443, 443), "reboot": (169, 142),
    "removexattr": (197, 14), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "request_key": (249, 218), "rmdir": (84, None), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "seccomp": (317, 277),
    "semctl": (66, 191), "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192),
    "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268), "setpgid": (109, 154),
    "setpriority": (141, 140), "setsid": (112, 157), "settimeofday": (164, 170), "setxattr": (188, 5),
    "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197), "shmget": (29, 194), "socket": (41, 198),
    "socketpair": (53, 199), "splice": (275, 76), "swapoff": (168, 225), "swapon": (167, 224),
    "symlink": (88, None), "symlinkat": (266, 36), "sysfs": (139, None), "syslog": (103, 116),
    "tee": (276, 77), "tgkill": (234, 131), "tkill": (200, 130), "truncate": (76, 45), "umount2": (166, 39),
    "unlink": (87, None), "unlinkat": (263, 35), "unshare": (272, 97), "uselib": (134, None),
    "userfaultfd": (323, 282), "ustat": (136, None), "utime": (132, None), "utimensat": (280, 88),
    "utimes": (235, None), "vfork": (58, None), "vhangup": (153, 58), "vmsplice": (278, 75),
}  # fmt: skip
NEWEST_KNOWN = 451  # calls above this one came after the table, so the filter refuses them

MACHINES = {"x86_64": 0, "aarch64": 1}


def number(name: str) -> int | None:
    """The number of a system call on this machine, or None where it has none."""
    column = MACHINES.get(os.uname().machine)
    return None if column is None else NUMBERS[name][column]


def syscall(name: str, *arguments: int | bytes | ctypes.Array | ctypes.Structure | None) -> int:
    """Make a system call; OSError with its name where it fails."""
    call = number(name)
    if call is None:
        raise OSError(f"{name}: no such system call on {os.uname().machine}")
    # Widened by hand: through a variadic C function a plain Python int would travel as 32 bits.
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return checked(name, LIBC.syscall(ctypes.c_long(call), *wide))


def prctl(option: int, *arguments: int | ctypes.c_void_p) -> int:
    """prctl(2), with the missing arguments zero as the kernel demands."""
    wide = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments]
    wide += [ctypes.c_ulong(0)] * (4 - len(wide))
    return checked("prctl", LIBC.prctl(ctypes.c_int(option), *wide))


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    encoded = [None if text is None else text.encode() for text in (source, target, kind, data)]
    checked(f"mount {target}", LIBC.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]))


def checked(name: str, result: int) -> int:
    """The result of a C call, or OSError where it is negative."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


# --- the filter ---

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
    call = number(name)
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

    `counted`: each new thread is asked for at the listener that `install_counted_filter` returns.
    """
    own = (os.getpid(),)
    program: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (EQUAL, 1, 0, ARCHITECTURES[os.uname().machine]),
        (RETURN, 0, 0, KILL),  # 32-bit calls have other numbers: they would walk around every rule below
        (LOAD, 0, 0, NUMBER_AT),
        (AT_LEAST, 0, 1, NEWEST_KNOWN + 1),  # newer calls, and the x32 ABI
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


def install_filter(processes: bool, threads: bool, writes: str) -> None:
    """Put the filter on this process, for good; needs no_new_privs."""
    header = packed(instructions(processes, threads, writes))
    prctl(22, 2, ctypes.c_void_p(ctypes.addressof(header)))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def install_counted_filter(writes: str) -> int:
    """The same for a program that has to ask for each thread: the descriptor to answer at (counting.py).

    OSError where the kernel has no such filter (before Linux 5.5), or another one above it that asks.
    """
    header = packed(instructions(False, True, writes, counted=True))
    # SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER
    return syscall("seccomp", 1, 8, header)


def packed(program: list[Instruction]) -> ctypes.Array:
    """The filter as the kernel reads it: a length and a pointer; the buffers stay with the header."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    header.code = code  # type: ignore[attr-defined]
    return header
