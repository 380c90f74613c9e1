"""A port for the processes of a group to meet at."""

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """Below those that the kernel gives to connections, of which one may come before it is used."""
    while True:
        port = random.SystemRandom().randint(20_000, 30_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
