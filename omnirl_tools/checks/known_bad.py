"""Combinations that are known to fail, each with its fix and where it is known from."""

from collections.abc import Callable
from dataclasses import dataclass

from packaging.version import Version

from omnirl_tools.checks.finding import BROKEN, WARNING, Finding
from omnirl_tools.checks.machine import Machine


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


def _vllm_out_of_range(machine: Machine) -> bool:
    vllm = machine.versions.get("vllm")
    return vllm is not None and not Version("0.22") <= Version(Version(vllm).base_version) <= Version("0.31")


def _before_ampere(machine: Machine) -> bool:
    return any(device["capability"] < [8, 0] for device in machine.devices)


def _bf16_before_ampere(machine: Machine) -> bool:
    return _before_ampere(machine) and machine.settings.get("bf16", True) is True


def _flash_before_ampere(machine: Machine) -> bool:
    return _before_ampere(machine) and machine.settings.get("attn_implementation") == "flash_attention_2"


def _colocated_pictures(machine: Machine) -> bool:
    settings = machine.settings
    return settings.get("use_vllm") is True and settings.get("vllm_mode", "colocate") == "colocate"


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
        "TRL {trl} supports vLLM 0.22 to 0.31, installed is {vllm}",
        "pip install 'vllm>=0.22,<=0.31'",
        "trl/import_utils.py of TRL 1.16",
        _vllm_out_of_range,
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
    KnownBad(
        "vllm_mode: colocate with pictures: TRL {trl} hands vLLM prompts whose image tokens are already expanded, "
        "and vLLM expands them again",
        "use_vllm: false, or vllm_mode: server",
        "https://github.com/huggingface/trl/issues/6294",
        _colocated_pictures,
        WARNING,
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
    return {
        **versions,
        **errors,
        "torch_plain": versions.get("torch", "").split("+")[0],
        "driver": str(machine.driver),
        "cuda": str(machine.torch.get("cuda")),
        "remark": remarks[0],
    }
