"""Part `environment`: the card, the versions, and what is there to measure with."""

import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from presets import Preset

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "peft",
    "triton",
    "bitsandbytes",
    "flash-attn",
    "vllm",
)


def environment(preset: Preset) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "machine", machine


def machine() -> dict[str, Any]:
    found: dict[str, Any] = {
        "status": "measured", "device": "cpu", "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }  # fmt: skip
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}", "cuda": torch.version.cuda,
        }  # fmt: skip
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
