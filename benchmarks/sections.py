"""The sections of RESULTS.md that scripts renew, each between two marks, and what each ends with."""

import platform
import re
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def publish(section: str, start: str, end: str, write: bool) -> None:
    """Print the section, its marks included; with `write` put it where RESULTS.md has them, or at its end."""
    print(section)
    if not write:
        return
    kept = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Benchmark results\n\n"
    before, found, rest = kept.partition(start)
    before = before if found else before.rstrip() + "\n\n"
    RESULTS.write_text(before + section + (rest.partition(end)[2] or "\n"), encoding="utf-8")


def software(*packages: str) -> str:
    """Versions of Python, torch, transformers, TRL and of `packages`, as the last line of a section names them."""
    names = ("torch", "transformers", "trl", *packages)
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)])


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or "a CPU"
