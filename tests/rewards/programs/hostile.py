# ruff: noqa: E501
"""Programs that try to read, write, reach or starve what is outside. Each line prints "owned" where it could.

`goal` is what the test made for them: paths of a secret file and of a folder with open doors, the path of a
datagram socket, a System V segment, queue and semaphore, a process, a TCP port.
"""

SETUP = """
import ctypes, fcntl, json, mmap, os, signal, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
goal = json.load(sys.stdin)
call = lambda *a: libc.syscall(*[ctypes.c_long(x) if isinstance(x, int) else x for x in a])
def owned(test): print('owned' if test else '')
"""
S = {name: number for name, number in {
    "shmctl": 31, "shmat": 30, "shmget": 29, "shmdt": 67, "semget": 64, "semop": 65, "semctl": 66, "semtimedop": 220,
    "msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "io_setup": 206, "io_submit": 209, "io_destroy": 207,
    "inotify_init": 253, "inotify_init1": 294, "inotify_add_watch": 254, "mq_open": 240, "fanotify_init": 300,
    "memfd_create": 319, "io_uring_setup": 425, "bpf": 321, "keyctl": 250, "add_key": 248, "perf_event_open": 298,
    "userfaultfd": 323, "mlockall": 151, "unshare": 272, "setns": 308, "ptrace": 101, "personality": 135,
    "open_by_handle_at": 304, "name_to_handle_at": 303, "kcmp": 312, "pidfd_open": 434, "pidfd_getfd": 438,
    "process_madvise": 440, "memfd_secret": 447, "clone3": 435, "landlock": 452, "socket": 41, "bind": 49,
    "connect": 42, "listen": 50, "accept4": 288, "vmsplice": 278, "setpriority": 141, "ioprio_set": 251,
    "sched_setaffinity": 203, "swapon": 167, "mount": 165, "umount2": 166, "chroot": 161, "pivot_root": 155,
    "reboot": 169, "sethostname": 170, "settimeofday": 164, "acct": 163, "quotactl": 179, "fsopen": 430,
    "open_tree": 428, "mount_setattr": 442, "syslog": 103, "init_module": 175, "kexec_load": 246, "lookup": 212,
}.items()}  # fmt: skip

IPC = {
    "read a segment": f"owned(call({S['shmat']}, goal['shm'], 0, 0o10000) > 0)",
    "ask a segment": f"owned(call({S['shmctl']}, goal['shm'], 2, ctypes.create_string_buffer(256)) == 0)",
    "remove a segment": f"owned(call({S['shmctl']}, goal['shm'], 0, 0) == 0)",
    "list all segments": f"owned(call({S['shmctl']}, 0, 14, ctypes.create_string_buffer(256)) >= 0)",
    "own segment": f"owned(call({S['shmget']}, 0, 4096, 0o1666) >= 0)",
    "read a queue": f"owned(call({S['msgrcv']}, goal['msg'], ctypes.create_string_buffer(64), 32, 0, 0o4000) >= 0)",
    "fill a queue": f"owned(call({S['msgsnd']}, goal['msg'], struct.pack('q8s', 1, b'x'), 8, 0o4000) == 0)",
    "remove a queue": f"owned(call({S['msgctl']}, goal['msg'], 0, 0) == 0)",
    "ask a queue": f"owned(call({S['msgctl']}, goal['msg'], 2, ctypes.create_string_buffer(256)) == 0)",
    "own queue": f"owned(call({S['msgget']}, 0, 0o1666) >= 0)",
    "raise a semaphore": f"owned(call({S['semop']}, goal['sem'], struct.pack('Hhh', 0, 1, 0), 1) == 0)",
    "raise it in time": f"owned(call({S['semtimedop']}, goal['sem'], struct.pack('Hhh', 0, 1, 0), 1, 0) == 0)",
    "set a semaphore": f"owned(call({S['semctl']}, goal['sem'], 0, 16, 7) == 0)",
    "remove a semaphore": f"owned(call({S['semctl']}, goal['sem'], 0, 0, 0) == 0)",
    "read a semaphore": f"owned(call({S['semctl']}, goal['sem'], 0, 12, 0) >= 0)",
    "own semaphores": f"owned(call({S['semget']}, 0, 9, 0o1666) >= 0)",
}
SOCKETS = {
    f"datagram pair to a path, {kind}": f"""
one, two = socket.socketpair(socket.AF_UNIX, {kind})
one.sendto(b'x', goal['dgram']); print('owned')"""
    for kind in ("socket.SOCK_DGRAM", "socket.SOCK_DGRAM | socket.SOCK_CLOEXEC", "socket.SOCK_SEQPACKET", "socket.SOCK_RAW")
} | {
    "stream pair to a path": "a, b = socket.socketpair(); a.sendto(b'x', goal['dgram']); print('owned')",
    "stream pair by message": "a, b = socket.socketpair(); a.sendmsg([b'x'], [], 0, goal['dgram']); print('owned')",
    "stream pair connects": "a, b = socket.socketpair(); a.connect(goal['dgram']); print('owned')",
    "stream pair binds": "a, b = socket.socketpair(); a.bind('\\0owned'); print('owned')",
    "stream pair listens": "a, b = socket.socketpair(); a.listen(); print('owned')",
    **{
        f"socket of family {family}": f"owned(call({S['socket']}, {family}, {kind}, 0) >= 0)"
        for family, kind in ((1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (10, 1), (10, 2), (16, 3), (17, 3), (38, 5), (40, 1))
    },
    **{
        f"pair of family {family}": f"owned(call(53, {family}, 2, 0, ctypes.create_string_buffer(8)) == 0)"
        for family in (1, 2, 30)
    },
}  # fmt: skip
CALLS = {
    f"{name} is refused": f"owned(call({S[name]}, {arguments}) >= 0)"
    for name, arguments in {
        "io_setup": "1000, ctypes.create_string_buffer(8)", "io_submit": "0, 0, 0", "inotify_init": "0",
        "inotify_init1": "0", "fanotify_init": "0, 0", "memfd_create": "b'x', 0", "io_uring_setup": "1, 0",
        "bpf": "0, 0, 0", "keyctl": "0, -3, 1", "add_key": "b'user', b'x', b'y', 1, -3", "userfaultfd": "1",
        "mlockall": "1", "unshare": "0x10000000", "ptrace": "0, 0, 0, 0", "personality": "0x40000",
        "kcmp": "goal['victim'], goal['victim'], 0, 0, 0", "pidfd_open": "goal['victim'], 0", "memfd_secret": "0",
        "setpriority": "0, goal['victim'], 19", "ioprio_set": "1, goal['victim'], 0x4007",
        "sched_setaffinity": "goal['victim'], 8, b'\\1' * 8", "chroot": "b'/usr'", "sethostname": "b'owned', 5",
        "fsopen": "b'tmpfs', 0", "open_tree": "-100, b'/usr', 0", "syslog": "3, ctypes.create_string_buffer(64), 64",
        "mq_open": "b'owned', 0o102, 0o666, 0", "clone3": "ctypes.create_string_buffer(88), 88",
        "vmsplice": "1, 0, 0, 0", "mount": "b'x', b'/usr', b'tmpfs', 0, 0", "umount2": "b'/usr', 2",
        "swapon": "b'/usr', 0", "acct": "0", "lookup": "0, 0, 0",
    }.items()
}  # fmt: skip
IOCTLS = {
    f"ioctl {request:#x}": """
file = os.open(goal['secret'], os.O_RDONLY)""" + f"""
owned(libc.ioctl(file, ctypes.c_ulong({request}), ctypes.byref(ctypes.c_long(0x10))) == 0)"""
    for request in (0x40086602, 0x80086601, 0x401C5820, 0x801C581F, 0x40049409, 0xC0185879, 0x40086604, 0x1269, 0x5412)
} | {
    f"ioctl {request:#x} of a library": f"""
file = os.open(os.__file__, os.O_RDONLY)
owned(libc.ioctl(file, ctypes.c_ulong({request}), ctypes.byref(ctypes.c_long(0x10))) == 0)"""
    for request in (0x40086602, 0x80086601, 0x401C5820, 0x40086604, 0xC0045877, 0x6611, 0x1, 0x5402, 0x540E, 0x5414)
}  # fmt: skip
# A lock that holds nobody up is none: a second one on the same file must get through.
LOCKS = {
    f"{kind} lock of a library": f"""
one, two = os.open(os.__file__, os.O_RDONLY), os.open(os.__file__, os.O_RDONLY)
{take}
try: {take.replace('one', 'two')}
except OSError: print('owned')"""
    for kind, take in {"whole": "fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)",
                       "shared": "fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB); fcntl.flock(one, fcntl.LOCK_SH)"}.items()
} | {
    "lease": "owned(libc.fcntl(os.open(os.__file__, 0), 1024, 0) == 0)",
    "watch of a folder": "owned(libc.fcntl(os.open('/usr', 0), 1026, 0x80000002) == 0)",
    "signals of a pipe": "owned(libc.fcntl(os.pipe()[0], 8, goal['victim']) == 0)",
    "signals of a pipe by number": "owned(libc.fcntl(os.pipe()[0], 10, 9) == 0)",
    "a huge pipe": "owned(libc.fcntl(os.pipe()[1], 1031, 1 << 20) > 0)",
}  # fmt: skip
PATHS = {
    f"{verb} {where}": text.replace("PATH", path)
    for verb, text in {
        "read": "owned(open(PATH).read())", "write": "open(PATH, 'w').write('x'); print('owned')",
        "append": "open(PATH, 'a').write('x'); print('owned')", "unlink": "os.unlink(PATH); print('owned')",
        "rename": "os.rename(PATH, 'mine'); print('owned')", "link": "os.link(PATH, 'mine'); print('owned')",
        "link and read": "os.symlink(PATH, 'mine'); owned(open('mine').read())",
        "truncate": "os.truncate(PATH, 0); print('owned')", "map": "owned(mmap.mmap(os.open(PATH, 2), 0)[0])",
        "own": "os.chown(PATH, os.getuid(), os.getgid()); print('owned')",
        "mark": "os.setxattr(PATH, 'user.owned', b'x'); print('owned')",
        "by a folder's number": "owned(os.read(os.open(PATH.lstrip('/'), 0, dir_fd=os.open('/', 0)), 9))",
    }.items()
    for where, path in {"the secret": "goal['secret']", "the password file": "'/etc/shadow'",
                        "the caller's memory": "f\"/proc/{goal['victim']}/mem\"", "a core pattern": "'/proc/sys/kernel/core_pattern'"}.items()
} | {
    f"make {what} outside": f"{text}; print('owned')"
    for what, text in {
        "a folder": "os.mkdir(goal['drop'] + '/x')", "a link": "os.symlink('/', goal['drop'] + '/x')",
        "a pipe": "os.mkfifo(goal['drop'] + '/x')", "a file": "open(goal['drop'] + '/x', 'x').close()",
        "a device": "os.mknod(goal['drop'] + '/x', 0o20666, os.makedev(1, 3))",
        "a copy": "open('x', 'w').close(); os.rename('x', goal['drop'] + '/x')",
        "a hard link": "open('x', 'w').close(); os.link('x', goal['drop'] + '/x')",
    }.items()
} | {
    f"make {what} inside": f"{text}; print('owned')"
    for what, text in {"a device": "os.mknod('x', 0o20666, os.makedev(1, 1)); open('x', 'rb').read(1)",
                       "a block device": "os.mknod('x', 0o60666, os.makedev(8, 0)); open('x', 'rb').read(1)"}.items()
}  # fmt: skip
STARVE = {
    "threads": """
import threading
threading.stack_size(32768)
for count in range(2000):
    try: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
    except RuntimeError: break
owned(count > 100); os._exit(0)""",
    "disk": "[open(f'f{i}', 'wb').write(bytes(1 << 20)) for i in range(60)]; print('owned')",
    "disk by copying": """
open('f', 'wb').write(bytes(1 << 20))
for i in range(60): os.sendfile(os.open(f'g{i}', 0o101), os.open('f', 0), 0, 1 << 20)
print('owned')""",
    "disk by copying ranges": """
open('f', 'wb').write(bytes(1 << 20))
for i in range(60): os.copy_file_range(os.open('f', 0), os.open(f'g{i}', 0o101), 1 << 20)
print('owned')""",
    "disk by laying out": "[os.posix_fallocate(os.open(f'f{i}', 0o102), 0, 1 << 20) for i in range(60)]; print('owned')",
    "disk by single bytes": """
for i in range(20):
    file = os.open(f'f{i}', 0o102)
    for at in range(0, 8 << 20, 4096): os.pwrite(file, b'x', at)
print('owned')""",
    "disk by maps": """
for i in range(60):
    file = os.open(f'f{i}', 0o102); os.ftruncate(file, 1 << 20); mmap.mmap(file, 1 << 20)[:] = b'x' * (1 << 20)
print('owned')""",
    "disk by one file": "os.ftruncate(os.open('f', 0o102), 1 << 34); print('owned')",
    "files": "[open(f'f{i}', 'w').close() for i in range(4000)]; print('owned')",
    "folders": "[os.mkdir(f'f{i}') for i in range(4000)]; print('owned')",
    "files in folders": "[(os.mkdir(f'f{i}'), open(f'f{i}/x', 'w').close()) for i in range(2000)]; print('owned')",
    "a deep tree": "\nfor i in range(3000): os.mkdir('d'); os.chdir('d')\nprint('owned')",
    "links": "[os.symlink('/', f'f{i}') for i in range(4000)]; print('owned')",
}
HOSTILE = IPC | SOCKETS | CALLS | IOCTLS | LOCKS | PATHS | STARVE
