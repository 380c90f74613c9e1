"""What a config needs beyond the required packages, and whether this machine has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnirl_tools.checks.finding import BROKEN, Finding
from omnirl_tools.checks.machine import Machine

TRACKERS = ("wandb", "trackio", "tensorboard")


@dataclass(frozen=True)
class Need:
    """One setting of the config and what it takes; `fault` is None where the machine has it."""

    setting: str
    takes: str
    fault: Finding | None = None

    def __str__(self) -> str:
        return f"{self.setting:<42}  needs {self.takes:<24}  {'missing' if self.fault else 'there'}"


def needs(machine: Machine) -> list[Need]:
    """The needs of `machine.settings`, in the order of the settings below."""
    settings = machine.settings
    found = [_package(machine, setting, name, fix) for setting, name, fix in _packages(settings)]
    attention = settings.get("attn_implementation")
    if attention and not str(attention).startswith("kernels-community/"):
        found.append(_attention(machine, str(attention)))
    if settings.get("bf16", True) and not settings.get("use_cpu"):
        found.append(_gpu(machine))
    return found


def _packages(settings: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(setting, package, fix) of everything that an optional package does."""
    wanted = []
    for key in ("load_in_4bit", "load_in_8bit"):
        if settings.get(key) is True:
            wanted.append((f"{key}: true", "bitsandbytes", "pip install -e '.[bitsandbytes]'"))
    optimizer = str(settings.get("optim", ""))
    if "8bit" in optimizer or "paged" in optimizer:
        wanted.append((f"optim: {optimizer}", "bitsandbytes", "pip install -e '.[bitsandbytes]'"))
    if settings.get("use_vllm") is True:
        wanted.append(("use_vllm: true", "vllm", "pip install -e '.[vllm]', or use_vllm: false"))
    if settings.get("deepspeed"):
        wanted.append(("deepspeed", "deepspeed", "pip install -e '.[deepspeed]'"))
    trackers = settings.get("report_to") or []
    for tracker in [trackers] if isinstance(trackers, str) else trackers:
        if tracker in TRACKERS:
            wanted.append((f"report_to: {tracker}", tracker, f"pip install {tracker}, or report_to: none"))
    return wanted


def _package(machine: Machine, setting: str, name: str, fix: str) -> Need:
    if machine.has(name):
        return Need(setting, f"{name} {machine.versions[name]}")
    reason = f"does not load: {machine.error(name)}" if machine.error(name) else "is not installed"
    return Need(setting, name, Finding(BROKEN, f"{setting}: {name} {reason}", fix))


def _attention(machine: Machine, name: str) -> Need:
    setting = f"attn_implementation: {name}"
    available = machine.torch.get("attention", [])
    if name in available:
        return Need(setting, name)
    have = ", ".join(available) or "none"
    return Need(setting, name, Finding(BROKEN, f"{setting} is not available here ({have})", "use sdpa"))


def _gpu(machine: Machine) -> Need:
    """TRL 1.16 trains in bf16 unless told otherwise, and transformers refuses that without a GPU."""
    setting = "bf16 (TRL's default)" if "bf16" not in machine.settings else "bf16: true"
    if machine.devices:
        return Need(setting, "a GPU")
    fix = "for the CPU: use_cpu: true and bf16: false"
    return Need(setting, "a GPU", Finding(BROKEN, f"{setting}: torch sees no GPU", fix))
