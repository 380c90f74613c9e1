"""The entries of a rewards.yaml as they stand there, each key with its line, and the faults found so far."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from omnirl_core.rewards.settings import nearest

KEYS = ("name", "scorer", "function", "weight", "tasks", "settings", "reads", "gated_by", "gate_at")
MOST_SHOWN = 10


class RewardsError(ValueError):
    """Everything that is wrong with a rewards.yaml, one fault a line."""

    def __init__(self, faults: list[str]) -> None:
        more = [f"... and {len(faults) - MOST_SHOWN} more"] if len(faults) > MOST_SHOWN else []
        super().__init__("\n".join(faults[:MOST_SHOWN] + more))
        self.faults = faults


class Faults:
    """What is wrong with a file, collected so that it is all told at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[tuple[int, str]] = []

    def add(self, line: int, message: object) -> None:
        self.found.append((line, str(message)))

    def error(self) -> RewardsError:
        """The error to raise, with the faults in the order of the file."""
        return RewardsError([f"{self.path}:{line}: {message}" for line, message in sorted(self.found)])

    def stop(self, line: int, message: object) -> RewardsError:
        """The error to raise where reading on makes no sense."""
        self.add(line, message)
        return self.error()


@dataclass(frozen=True)
class Entry:
    """One item of the list; `entry[key]` is None where the key is not given."""

    values: dict[str, Any]
    lines: dict[str, int]
    line: int

    def __getitem__(self, key: str) -> Any:
        return self.values.get(key)

    def line_of(self, key: str) -> int:
        return self.lines.get(key, self.line)

    @property
    def name(self) -> str:
        """The name under which the reward is logged."""
        function = str(self["function"] or "").rpartition(":")[2]
        return str(self["name"] or self["scorer"] or function)

    def names(self, key: str) -> list[str]:
        """A value that may be one name or a list of names."""
        value = self[key]
        return [] if value is None else list(value) if isinstance(value, list) else [value]


def read_entries(path: Path, faults: Faults) -> list[Entry]:
    """The items under `rewards:`, with keys checked and values as they are."""
    text = path.read_text(encoding="utf-8")
    try:
        root, data = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise faults.stop(line, f"not YAML: {error.problem}") from error
    for line, key in _given_twice(root):
        faults.add(line, f"'{key}' is given twice")
    listed = isinstance(data, dict) and isinstance(data.get("rewards"), list) and data["rewards"]
    if root is None or not listed:
        raise faults.stop(1, "wants `rewards:` and under it a list of at least one entry")
    lines = _lines(root)
    for key in [key for key in data if key != "rewards"]:
        faults.add(lines[str(key)], f"unknown key '{key}'{nearest(key, ['rewards'])}")
    items = next(value.value for key, value in root.value if key.value == "rewards")
    return [_entry(node, values, faults) for node, values in zip(items, data["rewards"], strict=True)]


def _entry(node: yaml.Node, values: Any, faults: Faults) -> Entry:
    line = node.start_mark.line + 1
    if not isinstance(values, dict):
        faults.add(line, f"{values!r} is no entry; write `- name: {values}`")
        return Entry({}, {}, line)
    entry = Entry(values, _lines(node), line)
    for key in [key for key in values if key not in KEYS]:
        faults.add(entry.line_of(str(key)), f"unknown key '{key}'{nearest(key, KEYS)}")
    return entry


def _lines(mapping: yaml.Node) -> dict[str, int]:
    return {str(key.value): key.start_mark.line + 1 for key, _ in mapping.value}


def _given_twice(node: yaml.Node | None) -> Iterator[tuple[int, str]]:
    """Keys that a mapping has more than once; YAML itself would keep the last and say nothing."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _given_twice(item)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                yield key.start_mark.line + 1, key.value
            seen.add(str(key.value))
            yield from _given_twice(value)
