"""Landlock: the kernel's own fence around a process that may read a few folders and nothing else.

It is what stands in for a private mount tree where the kernel gives us none (in most containers). It also
keeps the process from looking into, or tracing, any process outside the fence.
"""

import ctypes
import os
import struct

from . import kernel

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
READ = EXECUTE | READ_FILE | READ_DIR
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15  # the rights that a rule on a file may name
# read, write, make and remove files, folders and links, move and truncate them; no devices, sockets, pipes
PLAIN_FILES = (
    WRITE_FILE | READ_FILE | READ_DIR | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 13 | 1 << 14
)
TRUNCATES_SINCE = 3  # the version that guards truncation: before it a program gets no folder to write in
VERSION_ONLY = 1
RULE_PATH_BENEATH = 1


def abi() -> int:
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
    rights, attribute = handled(abi())
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
