"""What a program can see of the machine: a private view in namespaces, or a Landlock fence around the real one.

Landlock is the kernel's own fence around a process that may read a few folders and nothing else. It stands in for a
private mount tree where the kernel gives us none (in most containers), and keeps the process from looking into, or
tracing, any process outside the fence.
"""

import ctypes
import os
import struct

from . import kernel

NEWNS, NEWUTS, NEWIPC = 0x20000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
DETACH = 2
DEVICES = ("null", "zero", "full", "random", "urandom")
NOBODY = 65534


def enter_namespaces(user: bool) -> None:
    """Leave the host's namespaces; `user` where it takes a user namespace to be allowed to."""
    if user:
        uid, gid = os.getuid(), os.getgid()
        kernel.syscall("unshare", NEWUSER)
        # The kernel wants this order: no groups before a gid map, one line each, by the process itself.
        for name, line in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    kernel.syscall("unshare", NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS)


def read_only(path: str) -> None:
    """Make a bind mount, and all mounts under it, read-only."""
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", RDONLY | NOSUID | NODEV, 0, 0, 0))
    try:
        kernel.syscall("mount_setattr", -100, path.encode(), 0x8000, attributes, 32)  # AT_FDCWD, AT_RECURSIVE
    except OSError:  # before Linux 5.12: the mount itself, keeping the flags that the kernel has locked
        locked = os.statvfs(path).f_flag & (NOSUID | NODEV | NOEXEC | 1024 | 2048)
        kernel.mount("none", path, None, REMOUNT | BIND | RDONLY | locked)


def bind(source: str, target: str, writable: bool = False) -> None:
    """Show a host path at `target`: a link as the same link, a folder or file as a mount."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        open(target, "w").close()
    kernel.mount(source, target, None, BIND | REC)
    if not writable:
        read_only(target)


def build_root(root: str, readable: list[str], app: str, compiling: bool, box_bytes: int, owner: int) -> None:
    """Make `root` a small file system and move this process into it, for good.

    In it: the system's programs and libraries (read-only), the program at /app, five devices, and /box, an
    empty folder in memory of limited size. No /proc, no /home, no /etc but the linker's cache.
    """
    kernel.mount("none", "/", None, REC | PRIVATE)
    kernel.mount("jail", root, "tmpfs", NOSUID | NODEV, "size=1m,mode=755")
    for path in readable:
        if os.path.lexists(path) and not os.path.lexists(root + path):
            bind(path, root + path)
    for name in DEVICES:
        bind(f"/dev/{name}", f"{root}/dev/{name}", writable=True)
    bind(app, f"{root}/app", writable=compiling)
    os.mkdir(f"{root}/box")
    kernel.mount("box", f"{root}/box", "tmpfs", NOSUID | NODEV, f"size={box_bytes},nr_inodes=1024,mode=700")
    os.chown(f"{root}/box", owner, -1)
    if not os.path.lexists(f"{root}/tmp"):  # there is one where Python lies below the host's /tmp
        os.symlink("box", f"{root}/tmp")
    kernel.mount("none", root, None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)
    os.chdir(root)
    kernel.syscall("pivot_root", b".", b".")  # stacks the host's root under ours ...
    kernel.checked("umount", kernel.LIBC.umount2(b".", DETACH))  # ... and takes it away
    os.chdir("/box")


# --- Landlock ---

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
READ = EXECUTE | READ_FILE | READ_DIR
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15  # the rights that a rule on a file may name
# read, write, make and remove files, folders and links, move and truncate them; no devices, sockets, pipes
PLAIN_FILES = WRITE_FILE | READ_FILE | READ_DIR | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 13 | 1 << 14
TRUNCATES_SINCE = 3  # the version that guards truncation: before it a program gets no folder to write in
VERSION_ONLY = 1
RULE_PATH_BENEATH = 1


def landlock_version() -> int:
    """The version of Landlock in this kernel, 0 where there is none."""
    try:
        return kernel.syscall("landlock_create_ruleset", None, 0, VERSION_ONLY)
    except OSError:
        return 0


def handled(version: int) -> tuple[int, bytes]:
    """All file rights that this version knows, and the ruleset attribute that takes them all away."""
    rights = (1 << 13) - 1
    for since, bit in ((2, 13), (3, 14), (5, 15)):  # moving between folders, truncating, device ioctls
        if version >= since:
            rights |= 1 << bit
    network = 0b11 if version >= 4 else 0  # TCP bind and connect
    scope = 0b11 if version >= 6 else 0  # abstract sockets and signals of the outside
    size = 8 if version < 4 else 16 if version < 6 else 24
    return rights, struct.pack("QQQ", rights, network, scope)[:size]


def fence(readable: list[str], writable: list[str], box: str | None) -> None:
    """Leave this process the given folders and files, and plain files in `box`; needs no_new_privs."""
    rights, attribute = handled(landlock_version())
    ruleset = kernel.syscall("landlock_create_ruleset", attribute, len(attribute), 0)
    granted = [(path, READ & rights) for path in readable] + [(path, rights) for path in writable]
    if box:
        granted.append((box, rights & PLAIN_FILES))
    for path, allowed in granted:
        if not os.path.exists(path):
            continue
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = allowed if os.path.isdir(path) else allowed & OF_A_FILE
        entry = ctypes.create_string_buffer(struct.pack("=Qi", allowed, place))
        kernel.syscall("landlock_add_rule", ruleset, RULE_PATH_BENEATH, entry, 0)
        os.close(place)
    kernel.syscall("landlock_restrict_self", ruleset, 0)
    os.close(ruleset)
