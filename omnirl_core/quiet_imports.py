"""Called by what is started from a shell, before the libraries are imported; imports nothing itself."""

import logging


def silence_imports() -> None:
    """bitsandbytes 0.50 tells at its import, to everybody, that some CPUs could have a faster 4-bit kernel."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
