"""A run's YAML as one mapping: its own keys over those of the files that it includes.

    include: [qwen2_5_vl_3b.yaml, ../hardware/one_24gb_lora.yaml]  # paths from this file's folder; later ones win
    output_dir: outputs/rec_lora                                   # the file's own keys win over all of them

So a recipe says once what its data wants, a machine once what its memory wants, and a file that joins the two
says only what differs.
"""

import os
from pathlib import Path
from typing import Any

from omnirl_core.yaml_file import YamlFault, read_yaml

INCLUDE = "include"


class ConfigError(ValueError):
    """What is wrong in a config file, with file and line."""


def read_config(path: str | Path, _open: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Every setting that the file and its includes give; ConfigError for what is no mapping of unlike names.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "small.yaml").write_text("bf16: true\\nmax_steps: 10")
    >>> _ = (folder / "run.yaml").write_text("include: small.yaml\\nmax_steps: 50")
    >>> read_config(folder / "run.yaml")
    {'bf16': True, 'max_steps': 50}
    """
    path = Path(path)
    if path.resolve() in _open:
        circle = " -> ".join(file.name for file in (*_open, path))
        raise ConfigError(f"{path}: includes itself: {circle}")
    own = _read(path)
    included = own.pop(INCLUDE, None) or []
    settings: dict[str, Any] = {}
    for name in [included] if isinstance(included, str) else included:
        file = path.parent / str(name)
        if not file.is_file():
            raise ConfigError(f"{path}: {INCLUDE} names {name!r}, but there is no {file}")
        settings |= read_config(file, (*_open, path.resolve()))
    return settings | own


def split_config(argv: list[str]) -> tuple[str | None, dict[str, Any], list[str]]:
    """The file that `--config` names, its settings, and the other options; its `env` goes into the environment.

    >>> split_config(["--max_steps", "3"])
    (None, {}, ['--max_steps', '3'])
    """
    if "--config" not in argv:
        return None, {}, list(argv)
    place = argv.index("--config")
    if place + 1 == len(argv):
        raise ConfigError("--config names no file")
    path = argv[place + 1]
    config = read_config(path)
    os.environ.update({str(name): str(value) for name, value in config.pop("env", {}).items()})
    return path, config, [*argv[:place], *argv[place + 2 :]]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file; paths start at the folder that the command runs in")
    try:
        text = read_yaml(path)
    except YamlFault as fault:
        raise ConfigError(fault.at(path)) from None
    if twice := text.given_twice():
        told = "; ".join(f"line {line}: {key!r} appears twice, keep one" for line, key in twice)
        raise ConfigError(f"{path}: {told}")
    if not isinstance(text.data, dict):
        raise ConfigError(f"{path}: expected lines of `name: value`")
    return dict(text.data)
