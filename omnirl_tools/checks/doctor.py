"""What `omnirl doctor` finds: what a config needs and lacks, and combinations of packages that are known to fail."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from omnirl_tools.environment import OPTIONAL, Machine, installed, required

BROKEN, WARNING = "broken", "warning"


@dataclass(frozen=True)
class Finding:
    """`broken` stops a run, `warning` may spoil one; `source` is where it is known from."""

    level: str
    what: str
    fix: str
    source: str = ""

    def __str__(self) -> str:
        source = f"\n         {self.source}" if self.source else ""
        return f"{self.level:<7}  {self.what}\n         fix: {self.fix}{source}"


def version_findings() -> list[Finding]:
    """Required packages that are missing, and installed ones of a version outside the range; TABLE has vLLM's."""
    findings = []
    for name, requirement in required().items():
        if name == "vllm":
            continue
        have = installed(name)
        level = WARNING if name in OPTIONAL else BROKEN
        if have is None:
            if name not in OPTIONAL:
                findings.append(Finding(BROKEN, f"{name} is not installed", f"pip install '{requirement}'"))
        elif not requirement.specifier.contains(have, prereleases=True):
            what = f"{name} {have} is outside {requirement.specifier}, which this version was tested with"
            findings.append(Finding(level, what, f"pip install '{requirement}'", "pyproject.toml"))
    return findings


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
        fix = f"pip install -e '.[vllm]' (vLLM {FITTING_VLLM} and the torch that it is built for), or use_vllm: false"
        wanted.append(("use_vllm: true", "vllm", fix))
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


@dataclass(frozen=True)
class KnownBad:
    """`applies` says whether a machine has it; `what` and `fix` may use what `facts` gives."""

    what: str
    fix: str
    source: str
    applies: Callable[[Machine], bool]
    level: str = BROKEN


def _torchvision_does_not_fit(machine: Machine) -> bool:
    return bool(machine.error("torchvision"))


def _gpu_hidden_from_torch(machine: Machine) -> bool:
    return machine.driver is not None and bool(machine.torch.get("cuda")) and not machine.devices


def _cpu_build_beside_a_gpu(machine: Machine) -> bool:
    torch = machine.torch
    return machine.driver is not None and "cuda" in torch and not torch["cuda"] and not torch.get("hip")


VLLM_OF_TRL = {"1.16": SpecifierSet(">=0.22,<=0.31")}
"""Versions of vLLM that a series of TRL takes, from its import_utils.py; the extra `vllm` is the newest's."""
FITTING_VLLM = "0.30.0"
"""The newest of them that takes the transformers of this package: 0.31 asks for one below 5.18."""


def _vllm_range(machine: Machine) -> SpecifierSet:
    series = ".".join((machine.versions.get("trl") or "").split(".")[:2])
    return VLLM_OF_TRL.get(series, list(VLLM_OF_TRL.values())[-1])


def _vllm_out_of_range(machine: Machine) -> bool:
    vllm = machine.versions.get("vllm")
    return vllm is not None and Version(Version(vllm).base_version) not in _vllm_range(machine)


def _vllm_asks_for_another(package: str, machine: Machine) -> bool:
    have, asked = machine.versions.get(package), machine.vllm_asks.get(package)
    if have is None or asked is None:
        return False
    return not SpecifierSet(asked).contains(have, prereleases=True)


def _before_ampere(machine: Machine) -> bool:
    return any(device["capability"] < [8, 0] for device in machine.devices)


def _bf16_before_ampere(machine: Machine) -> bool:
    return _before_ampere(machine) and machine.settings.get("bf16", True) is True


def _flash_before_ampere(machine: Machine) -> bool:
    return _before_ampere(machine) and machine.settings.get("attn_implementation") == "flash_attention_2"


def _flash_does_not_fit(machine: Machine) -> bool:
    return bool(machine.error("flash-attn"))


def _bitsandbytes_does_not_load(machine: Machine) -> bool:
    return bool(machine.error("bitsandbytes"))


TABLE = (
    KnownBad(
        "torch {torch} and torchvision {torchvision} do not fit: {torchvision_error}",
        "install both in one command and from one index, so that builds match: "
        "pip install --force-reinstall torch=={torch_plain} torchvision",
        "https://github.com/pytorch/pytorch/issues/122494, https://github.com/vllm-project/vllm/issues/5736",
        _torchvision_does_not_fit,
    ),
    KnownBad(
        "flash-attn {flash_attn} does not load beside torch {torch}: {flash_attn_error}",
        "remove it (attn_implementation: sdpa needs nothing), or install the wheel for exactly this torch, CUDA "
        "and C++ ABI",
        "https://github.com/Dao-AILab/flash-attention/issues/931, #1832",
        _flash_does_not_fit,
    ),
    KnownBad(
        "bitsandbytes {bitsandbytes} does not load: {bitsandbytes_error}",
        "pip install --upgrade bitsandbytes; it must know the CUDA that torch {torch} was built for",
        "its own message",
        _bitsandbytes_does_not_load,
    ),
    KnownBad(
        "the driver ({driver}) runs, but torch {torch}, built for CUDA {cuda}, sees no GPU: {remark}",
        "update the driver, or install a torch built for an older CUDA; look at CUDA_VISIBLE_DEVICES too",
        "https://github.com/pytorch/pytorch/issues/4546",
        _gpu_hidden_from_torch,
    ),
    KnownBad(
        "there is a GPU (driver {driver}), but torch {torch} is a build for the CPU",
        "install a CUDA build, together with its torchvision: https://pytorch.org/get-started/locally",
        "torch.version.cuda is None",
        _cpu_build_beside_a_gpu,
        WARNING,
    ),
    KnownBad(
        "TRL {trl} takes vLLM {vllm_range}, installed is {vllm}",
        "pip install 'vllm{vllm_range}', or {fitting_vllm}, which goes with transformers {transformers} too",
        "trl/import_utils.py of TRL 1.16",
        _vllm_out_of_range,
        WARNING,
    ),
    KnownBad(
        "vLLM {vllm} asks for transformers{vllm_asks_transformers}, installed is {transformers}: pip refuses the two "
        "together",
        "pip install vllm=={fitting_vllm}, which takes transformers from 5.10.4 on",
        "what the installed vLLM requires",
        partial(_vllm_asks_for_another, "transformers"),
        WARNING,
    ),
    KnownBad(
        "vLLM {vllm} is built for torch{vllm_asks_torch}, installed is {torch}",
        "install both in one command and the torchvision of that torch: "
        "pip install vllm=={vllm} 'torch{vllm_asks_torch}' torchvision",
        "what the installed vLLM requires of torch",
        partial(_vllm_asks_for_another, "torch"),
        WARNING,
    ),
    KnownBad(
        "bf16 on a GPU older than Ampere (compute capability below 8.0)",
        "bf16: false and fp16: true",
        "transformers refuses it when the run starts",
        _bf16_before_ampere,
    ),
    KnownBad(
        "attn_implementation: flash_attention_2 on a GPU older than Ampere (compute capability below 8.0)",
        "attn_implementation: sdpa",
        "https://github.com/Dao-AILab/flash-attention: Ampere, Ada and Hopper GPUs",
        _flash_before_ampere,
    ),
)


def known_bad(machine: Machine) -> list[Finding]:
    """What of the table this machine (and the config on it) has."""
    facts = _facts(machine)
    return [
        Finding(bad.level, bad.what.format(**facts), bad.fix.format(**facts), bad.source)
        for bad in TABLE
        if bad.applies(machine)
    ]


def _facts(machine: Machine) -> dict[str, str]:
    versions = {name.replace("-", "_"): str(version) for name, version in machine.versions.items()}
    errors = {f"{name.replace('-', '_')}_error": machine.error(name) for name in machine.imports}
    remarks = machine.torch.get("remarks") or ["it gives no reason"]
    asked = {f"vllm_asks_{name}": machine.vllm_asks.get(name, "") for name in ("torch", "transformers")}
    return {
        **versions,
        **errors,
        **asked,
        "vllm_range": str(_vllm_range(machine)),
        "fitting_vllm": FITTING_VLLM,
        "torch_plain": versions.get("torch", "").split("+")[0],
        "driver": str(machine.driver),
        "cuda": str(machine.torch.get("cuda")),
        "remark": remarks[0],
    }
