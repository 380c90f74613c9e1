"""What a program has written, where it has a folder of the disk and no file system of its own.

The kernel counts the bytes that a process writes by any call, also to files that it has removed; maps, which it
does not count, are refused by the filter (seccomp.py).
"""

import os

MOST_FILES = 1024  # as many as the tmpfs of the level `namespaces` holds
FILES_EVERY = 5  # patrols
LONGEST_PATH = 1000


def is_counted() -> bool:
    """Whether this kernel counts what a process writes."""
    return os.path.exists("/proc/self/io")


class Watch:
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
