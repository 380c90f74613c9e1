"""YAML that people wrote, read safely: keys with their lines, keys given twice, the settings of a run, one value."""

import dataclasses
import json
import os
import typing
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from omnirl_core.types import JsonObject, alternatives, choices_of, nearest, value_faults

INCLUDE = "include"
"""A key of earlier versions, which is refused."""

MOST_NODES = 100_000
"""Values in a file, those that aliases repeat counted each time: ten lines of aliases can stand for billions."""
DEEPEST = 50

_YES, _NO = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
_CONSTRUCTION_ERRORS = (ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError)
"""What PyYAML 6 raises for a tag that its value does not fit: `!!bool maybe`, `!!timestamp x`, `2001-99-99`."""


class YamlFault(ValueError):
    """The file as a whole cannot be read; the first line that shows it, if it is known."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.problem, self.line = problem, line

    def at(self, path: str | os.PathLike[str]) -> str:
        """The whole message: `path:line: problem`."""
        return f"{os.fspath(path)}{f':{self.line}' if self.line else ''}: {self.problem}"


class YamlText(NamedTuple):
    """A document's nodes, which know their lines, and its values."""

    root: yaml.Node | None
    data: Any
    given_twice: list[tuple[int, str]]
    """(line, key) of keys that a mapping has more than once; YAML itself would keep the last and say nothing."""


def read_yaml(path: str | os.PathLike[str]) -> YamlText:
    """The file's one document; YamlFault where there is none to be had, OSError where there is no file."""
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise YamlFault("not UTF-8; save it as UTF-8") from None


def parse_yaml(text: str) -> YamlText:
    """Read by the safe loader: no tag makes an object or calls a function.

    >>> parse_yaml("a: 1\\na: 2").given_twice
    [(2, 'a')]
    """
    try:
        root = yaml.compose(text, Loader=_ShallowLoader)
        given_twice = [] if root is None else _given_twice(root)
        return YamlText(root, yaml.safe_load(text), given_twice)
    except YamlFault:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlFault(f"not YAML: {error.problem or error.context}", mark.line + 1 if mark else 1) from None
    except yaml.YAMLError as error:  # control characters
        raise YamlFault(f"not YAML: {str(error).splitlines()[0]}") from None
    except _CONSTRUCTION_ERRORS as error:
        raise YamlFault(f"a value that does not fit its tag or form: {error}; put it in quotes") from None


class _ShallowLoader(yaml.SafeLoader):
    """Stops at the first node that is too deep: the time that PyYAML 6 takes grows with the square of the depth."""

    _depth = -1

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise YamlFault(f"nested more than {DEEPEST} levels deep", line)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def key_lines(mapping: yaml.Node) -> dict[str, int]:
    """Key -> the line that it stands on."""
    return {str(key.value): key.start_mark.line + 1 for key, _ in mapping.value}


def _given_twice(root: yaml.Node) -> list[tuple[int, str]]:
    """Keys given twice in a mapping, each once, by line.

    Refuses what is too deep or, aliases written out, too much: an alias may also contain itself.
    """
    n_nodes, waiting, found = 0, [(root, 0)], set()
    while waiting:
        node, depth = waiting.pop()
        n_nodes += 1
        line = node.start_mark.line + 1
        if depth > DEEPEST:
            raise YamlFault(f"nested more than {DEEPEST} levels deep, or an alias that contains itself", line)
        if n_nodes > MOST_NODES:
            raise YamlFault(f"more than {MOST_NODES:,} values, aliases written out", line)
        if isinstance(node, yaml.SequenceNode):
            waiting += [(item, depth + 1) for item in node.value]
        elif isinstance(node, yaml.MappingNode):
            waiting += [(part, depth + 1) for pair in node.value for part in pair]
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            first = {key.value: key for key in reversed(keys)}
            found |= {(key.start_mark.line + 1, key.value) for key in keys if first[key.value] is not key}
    return sorted(found)


class ConfigError(ValueError):
    """Everything that is wrong with a config, one fault a line, each with file and line."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


class Given(NamedTuple):
    """A setting as someone wrote it, and where: `demo.yaml:12`, or the command line."""

    name: str
    value: object
    place: str


def read_config(path: str | Path) -> JsonObject:
    """Every setting that the file gives.

    Raises:
        ConfigError: the file is no mapping, gives a key twice, or has an `include`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "run.yaml")
    >>> _ = path.write_text("bf16: true\\nmax_steps: 10")
    >>> read_config(path)
    {'bf16': True, 'max_steps': 10}
    """
    faults: list[str] = []
    given = read_given(path, faults)
    if faults:
        raise ConfigError(faults)
    return {one.name: one.value for one in given}


def read_given(path: str | Path, faults: list[str]) -> list[Given]:
    """The settings of the file, each with its place. What cannot be read goes to `faults`."""
    try:
        text = read_yaml(path)
    except YamlFault as error:
        faults.append(error.at(path))
        return []
    except OSError as error:
        faults.append(f"{path}: {_why_unreadable(Path(path), error)}")
        return []
    if not isinstance(text.data, dict) or text.root is None:
        faults.append(f"{path}:1: expected lines of `name: value`")
        return []
    faults += [f"{path}:{line}: {key!r} appears twice; keep one" for line, key in text.given_twice]
    lines = key_lines(text.root)
    given = [Given(str(key), value, f"{path}:{lines.get(str(key), 1)}") for key, value in text.data.items()]
    faults += [f"{one.place}: {_no_include(one.value)}" for one in given if one.name == INCLUDE]
    return [one for one in given if one.name != INCLUDE]


def _no_include(value: Any) -> str:
    names = ", ".join(str(name) for name in (value if isinstance(value, list) else [value]))
    return (
        f"`include` is not supported: a config holds all of its settings. Copy those of {names} into this file, above "
        "the file's own, and remove the line"
    )


def _why_unreadable(path: Path, error: OSError) -> str:
    if path.is_dir():
        inside = path / "config.yaml"
        return "a folder; give a YAML" + f": {inside}" * inside.is_file()
    if not isinstance(error, FileNotFoundError):
        return f"cannot be read ({error.strerror})"
    folder = path.parent if path.parent.is_dir() else path.parent.parent
    found = [other for pattern in ("*.yaml", "*/*.yaml") for other in sorted(folder.glob(pattern))]
    there = [str(other) for other in found if not other.name.startswith(".")]
    hint = nearest(path, there) if there else ""
    return f"no such config file; paths start at the folder that the command runs in{hint}"


def read_mapping(text: str) -> object:
    """What a word of the command line says, as JSON or as YAML; ValueError where it is neither.

    >>> read_mapping("{problem: question}"), read_mapping('{"learning_rate": 1e-5}')
    ({'problem': 'question'}, {'learning_rate': 1e-05})
    """
    try:
        return json.loads(text)  # first: YAML takes 1e-5 for a text
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"{text!r} is no mapping; write '{{name: value}}'") from None


def read_value(
    name: str,
    value: object,
    annotation: object,
    field: dataclasses.Field | None = None,
    known: Sequence[object] = (),
) -> tuple[object, str | None]:
    """(value, fault): text made what the field holds, and checked against its type and choices.

    `known` are the choices of a field whose type names none.

    >>> read_value("learning_rate", "1e-6", float), read_value("max_steps", "ten", int)[1]
    ((1e-06, None), "max_steps: 'ten' is not int")
    """
    kinds = alternatives(annotation)
    if value is None and (field is None or field.default is None or type(None) in kinds):
        return value, None
    choices = _choices(annotation, field, known)
    if isinstance(value, bool) and value in choices:
        return value, None
    if isinstance(value, bool) and choices and bool not in kinds:
        return _bare_word(name, value, choices)
    if isinstance(value, str):
        value = _from_text(value, kinds)
        if isinstance(value, str) and _holds(dict, kinds) and value.lstrip().startswith("{"):
            return value, f"{name}: {value!r} is no mapping; write '{{name: value}}'"
    if choices and isinstance(value, str) and value not in choices:
        return value, f"{name}: {value!r} is not a choice{nearest(value, choices)}"
    faults = value_faults(name, value, annotation)
    if faults and str in kinds and isinstance(value, bool | int | float):
        faults = [f"{faults[0]}; put it in quotes"]  # a bare no, on, 5 or 1.0 of YAML is no text
    if not faults and isinstance(value, list):
        items = [typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is list]
        faults = [fault for item in value for fault in value_faults(name, item, items[0])] if items else []
    return value, faults[0] if faults else None


def _bare_word(name: str, value: bool, choices: Sequence[Any]) -> tuple[Any, str | None]:
    """YAML 1.1 reads a bare `on`, `yes`, `off` or `no` as a truth value; the word is meant where it is a choice."""
    meant = [word for word in (("on", "yes", "true") if value else ("off", "no", "false")) if word in choices]
    if meant:
        return meant[0], None
    return value, f"{name}: {value} is not a choice{nearest(value, choices)}"


def _choices(annotation: Any, field: dataclasses.Field | None, known: Sequence[object]) -> list[Any]:
    """The only values that the field takes, or [] where it takes any; `SomeEnum | str` is TRL's enumeration."""
    if field is not None and field.metadata.get("choices"):
        return list(field.metadata["choices"])
    kinds = alternatives(annotation)
    is_open = str in kinds and not any(isinstance(kind, type) and issubclass(kind, Enum) for kind in kinds)
    return list(known) if is_open else choices_of(annotation)


def _from_text(text: str, kinds: Sequence[Any]) -> Any:
    """The text as a mapping, a truth value or a number where the field holds one; else as it is."""
    if _holds(dict, kinds) and text.lstrip().startswith("{"):
        return _tried(read_mapping, text)
    if str in kinds:
        return text
    readers: tuple[tuple[type, Callable[[str], Any]], ...] = (
        (bool, _truth), (int, int), (float, float),
    )  # fmt: skip
    for kind, read in readers:
        if kind in kinds and not isinstance(value := _tried(read, text), str):
            return value
    lists = [typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is list]
    return [_from_text(text, lists[0])] if lists else text


def _truth(word: str) -> bool:
    """As transformers reads truth values; ValueError for other words."""
    if (lower := word.lower()) not in (*_YES, *_NO):
        raise ValueError(f"{word!r} is no truth value")
    return lower in _YES


def _holds(wanted: type, kinds: Sequence[Any]) -> bool:
    return any((typing.get_origin(kind) or kind) is wanted for kind in kinds)


def _tried(read: Callable[[str], Any], text: str) -> Any:
    """What `read` makes of the text; the text itself where it makes nothing, which is then the fault."""
    try:
        return read(text)
    except ValueError:
        return text
