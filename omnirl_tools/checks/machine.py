"""What this machine has: versions, what torch sees, the driver. Gathered once; the checks only look at it."""

import platform
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from omnirl_tools.checks.installed import OPTIONAL, OTHERS, installed, required
from omnirl_tools.checks.probe import probe

COMPILED = {"torchvision": "torchvision", "flash-attn": "flash_attn", "bitsandbytes": "bitsandbytes"}
"""Packages compiled against torch: package -> module. They fail at import when they do not fit it."""
SLOW = {"deepspeed": "deepspeed", "vllm": "vllm"}
"""Imported only when a config wants them: they take many seconds."""


@dataclass(frozen=True)
class Machine:
    """The facts; `imports` holds what importing a package gave (`error` where it failed)."""

    versions: Mapping[str, str | None]
    imports: Mapping[str, Mapping[str, Any]]
    driver: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the config that the user wants to run; empty without one."""

    @property
    def torch(self) -> Mapping[str, Any]:
        return self.imports.get("torch", {})

    @property
    def devices(self) -> list[dict[str, Any]]:
        return self.torch.get("devices", [])

    def error(self, package: str) -> str:
        return self.imports.get(package, {}).get("error", "")

    def has(self, package: str) -> bool:
        return self.versions.get(package) is not None and not self.error(package)


def look(settings: Mapping[str, Any] | None = None) -> Machine:
    """This machine, with the packages that `settings` asks for imported too."""
    settings = settings or {}
    names = [*required(), *OPTIONAL, *OTHERS]
    versions = {name: installed(name) for name in dict.fromkeys(names)}
    wanted = {"torch": "torch", **COMPILED, **(SLOW if settings else {})}
    with ThreadPoolExecutor(2) as pool:  # each import is a process of its own
        modules = {name: module for name, module in wanted.items() if versions.get(name)}
        imports = dict(zip(modules, pool.map(probe, modules.values()), strict=True))
    return Machine({"python": platform.python_version(), **versions}, imports, _driver(), settings)


def _driver() -> str | None:
    """The NVIDIA driver's version, None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return "nvidia-smi hangs"
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else "nvidia-smi fails"
