"""The folder recipes/ as a package: `accelerate launch --module omnirl_tools.recipes.grpo --config CONFIG`.

A wheel has the scripts and YAMLs here; in a checkout they stand once, in recipes/ beside the package.
"""

from pathlib import Path

from omnirl_core.types import nearest

_HERE = Path(__file__).parent
if not (_HERE / "grpo.py").is_file():
    __path__ = [str(_HERE.parents[1] / "recipes")]
FOLDER = Path(__path__[0])
"""Where the recipes are: recipes/mixed/rewards.yaml is `FOLDER / "mixed" / "rewards.yaml"`."""
ACCELERATE_CONFIGS = FOLDER.parent / "accelerate_configs"


def accelerate_config(name: str) -> Path:
    """The file itself, or the one of accelerate_configs/ with this name.

    Raises:
        ValueError: neither is there.

    >>> accelerate_config("cpu").name
    'cpu.yaml'
    """
    shipped = ACCELERATE_CONFIGS / f"{name.removesuffix('.yaml')}.yaml"
    for path in (Path(name), shipped):
        if path.is_file():
            return path
    known = sorted(path.stem for path in ACCELERATE_CONFIGS.glob("*.yaml"))
    raise ValueError(f"{name}: no such file, and no config of that name{nearest(name, known)}")
