"""A run's YAML: its own keys over those of the files that it includes, each with the place where it stands.

    include: [qwen2_5_vl_3b.yaml, ../hardware/one_24gb_lora.yaml]  # paths from this file's folder; later ones win
    output_dir: outputs/rec_lora                                   # the file's own keys win over all of them

So a recipe says once what its data wants, a machine once what its memory wants, and a file that joins the two
says only what differs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omnirl_core.values import nearest
from omnirl_core.yaml_file import YamlFault, key_lines, read_yaml

INCLUDE = "include"


class ConfigError(ValueError):
    """Everything that is wrong with a config, one fault a line, each with file and line."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


class Given(NamedTuple):
    """A setting as someone wrote it, and where: `demo.yaml:12`, or the command line."""

    name: str
    value: Any
    place: str


def read_config(path: str | Path) -> dict[str, Any]:
    """Every setting that the file and its includes give; ConfigError for what is no mapping of unlike names.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "small.yaml").write_text("bf16: true\\nmax_steps: 10")
    >>> _ = (folder / "run.yaml").write_text("include: small.yaml\\nmax_steps: 50")
    >>> read_config(folder / "run.yaml")
    {'bf16': True, 'max_steps': 50}
    """
    faults: list[str] = []
    given = read_given(path, faults)
    if faults:
        raise ConfigError(faults)
    return {one.name: one.value for one in given}


def read_given(path: str | Path, faults: list[str], _open: tuple[Path, ...] = ()) -> list[Given]:
    """The settings of the file's includes, then its own: later ones win. What cannot be read goes to `faults`."""
    path = Path(path)
    if path.resolve() in _open:
        circle = " -> ".join(file.name for file in (*_open, path))
        faults.append(f"{path}: includes itself: {circle}")
        return []
    settings: list[Given] = []
    for one in _own(path, faults):
        if one.name != INCLUDE:
            settings.append(one)
            continue
        included: list[Given] = []
        for name in one.value if isinstance(one.value, list) else [one.value]:
            if (file := path.parent / str(name)).is_file():
                included += read_given(file, faults, (*_open, path.resolve()))
            elif name is not None:
                hint = nearest(name, [other.name for other in sorted(file.parent.glob("*.yaml"))])
                faults.append(f"{one.place}: {INCLUDE} names {name!r}, but there is no {file}{hint}")
        settings = included + settings
    return settings


def _own(path: Path, faults: list[str]) -> list[Given]:
    try:
        text = read_yaml(path)
    except YamlFault as error:
        faults.append(error.at(path))
        return []
    except OSError as error:
        faults.append(f"{path}: {_why_unreadable(path, error)}")
        return []
    if not isinstance(text.data, dict) or text.root is None:
        faults.append(f"{path}:1: expected lines of `name: value`")
        return []
    faults += [f"{path}:{line}: {key!r} appears twice; keep one" for line, key in text.given_twice()]
    lines = key_lines(text.root)
    return [Given(str(key), value, f"{path}:{lines.get(str(key), 1)}") for key, value in text.data.items()]


def _why_unreadable(path: Path, error: OSError) -> str:
    if not isinstance(error, FileNotFoundError):
        return f"cannot be read ({error.strerror})"
    folder = path.parent if path.parent.is_dir() else path.parent.parent
    found = [other for pattern in ("*.yaml", "*/*.yaml") for other in sorted(folder.glob(pattern))]
    there = [str(other) for other in found if not other.name.startswith(".")]
    hint = nearest(path, there) if there else ""
    return f"no such config file; paths start at the folder that the command runs in{hint}"
