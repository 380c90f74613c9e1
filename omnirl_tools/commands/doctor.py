"""Is this installation sound, and has it what a config needs?

Prints versions, the GPU, attention implementations and every known-bad combination with its fix. Exit code 1 when
something is broken.
"""

import argparse
import platform

from omnirl_core.data.images import cores
from omnirl_tools.checks.doctor import BROKEN, Finding, known_bad, needs, version_findings
from omnirl_tools.commands.config_file import read_settings
from omnirl_tools.environment import OPTIONAL, OTHERS, Machine, look, required

GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a recipe's YAML, to see what it needs")


def run(arguments: argparse.Namespace) -> int:
    settings = read_settings(arguments.config) if arguments.config else {}
    machine = look(settings)
    findings = [*version_findings(), *import_findings(machine), *known_bad(machine)]
    print(_system(machine), _packages(machine), _torch(machine), sep="\n\n")
    if arguments.config:
        wanted = needs(machine)
        findings += [need.fault for need in wanted if need.fault]
        print(f"\n{arguments.config}")
        print("\n".join(f"  {need}" for need in wanted) or "  needs nothing beyond the required packages")
    print("\n" + ("\n".join(map(str, findings)) if findings else "all is well"))
    return int(any(finding.level == BROKEN for finding in findings))


def import_findings(machine: Machine) -> list[Finding]:
    """Packages that do not load and have no entry in the table of known-bad combinations."""
    found = []
    for name in ("torch", "deepspeed", "vllm"):
        if machine.error(name):
            found.append(
                Finding(BROKEN, machine.error(name), f"reinstall {name}: pip install --force-reinstall {name}")
            )
    return found


def _system(machine: Machine) -> str:
    return f"python {machine.versions['python']}, {platform.system()} {platform.machine()}, {cores()} cores"


def _packages(machine: Machine) -> str:
    lines = []
    for name in dict.fromkeys([*required(), *OPTIONAL, *OTHERS]):
        version = machine.versions.get(name)
        how = f"pip install -e '.[{OPTIONAL[name]}]'" if name in OPTIONAL else f"pip install {name}"
        note = "" if version else "  " + ("optional: " if name in [*OPTIONAL, *OTHERS] else "") + how
        lines.append(f"  {name:<14}  {version or '-'}{note}")
    return "\n".join(["packages", *lines])


def _torch(machine: Machine) -> str:
    facts = machine.torch
    build = f"CUDA {facts.get('cuda')}" if facts.get("cuda") else "ROCm" if facts.get("hip") else "the CPU"
    lines = [f"torch is built for {build}; NVIDIA driver: {machine.driver or 'none'}"]
    for index, device in enumerate(machine.devices):
        free, total = device["free"] / GIB, device["total"] / GIB
        lines.append(f"  GPU {index}: {device['name']}, {free:.1f} of {total:.1f} GiB free")
    if not machine.devices:
        lines.append("  no GPU: the CPU demos run, with use_cpu: true and bf16: false")
    lines.append(f"attention implementations: {', '.join(facts.get('attention', [])) or 'none'}")
    return "\n".join(lines)
