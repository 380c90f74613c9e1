"""Imports a package in a process of its own and says what it found: a broken native library can crash or hang.

python -m omnirl_tools.checks.probe torch    # one line of JSON
"""

import importlib
import json
import subprocess
import sys
import warnings
from typing import Any

TIMEOUT_S = 120
_MARK = "omnirl-probe:"


def probe(name: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """What `name` (torch, or any module) says of itself; `error` is there when it cannot be imported."""
    command = [sys.executable, "-m", "omnirl_tools.checks.probe", name]
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


def torch_facts() -> dict[str, Any]:
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


if __name__ == "__main__":
    try:
        facts = _facts(sys.argv[1])
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError, TypeError) as error:
        facts = {
            "error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        }
    print(_MARK + json.dumps(facts))
