"""Which packages are installed, and whether their versions are ones that this package and TRL were made for."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from omnirl_tools.checks.finding import BROKEN, WARNING, Finding

DISTRIBUTION = "omnirl-core"
ROOT = Path(__file__).parents[2]
OPTIONAL = {
    "deepspeed": "deepspeed", "bitsandbytes": "bitsandbytes", "math-verify": "math", "vllm": "vllm",
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


def version_findings() -> list[Finding]:
    """Required packages that are missing, and installed ones of a version outside the range."""
    findings = []
    for name, requirement in required().items():
        have = installed(name)
        level = WARNING if name in OPTIONAL else BROKEN
        if have is None:
            if name not in OPTIONAL:
                findings.append(Finding(BROKEN, f"{name} is not installed", f"pip install '{requirement}'"))
        elif not requirement.specifier.contains(have, prereleases=True):
            what = f"{name} {have} is outside {requirement.specifier}, which this version was tested with"
            findings.append(Finding(level, what, f"pip install '{requirement}'", "pyproject.toml"))
    return findings
