"""The entries of a rewards.yaml as they stand there, each key with its line, and the faults found so far."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from omnirl_core.type_checks import nearest
from omnirl_core.yaml_loader import YamlFault, key_lines, read_yaml

KEYS = (
    "name",
    "scorer",
    "function",
    "weight",
    "tasks",
    "settings",
    "reads",
    "gated_by",
    "gate_at",
    "timeout_s",
)
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
    setting_lines: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        return self.values.get(key)

    def line_of(self, key: str) -> int:
        return self.lines.get(key, self.line)

    def line_of_setting(self, message: object) -> int:
        """The line of the first setting that a message names; of all settings where it names none."""
        words = re.findall(r"\w+", str(message))
        named = [line for name, line in self.setting_lines.items() if name in words]
        return named[0] if named else self.line_of("settings")

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
    try:
        text = read_yaml(path)
    except YamlFault as error:
        raise faults.stop(error.line or 1, error.problem) from error
    root, data = text.root, text.data
    for line, key in text.given_twice():
        faults.add(line, f"'{key}' is given twice")
    listed = isinstance(data, dict) and isinstance(data.get("rewards"), list) and data["rewards"]
    if root is None or not listed:
        raise faults.stop(1, "wants `rewards:` and under it a list of at least one entry")
    lines = key_lines(root)
    for key in [key for key in data if key != "rewards"]:
        faults.add(lines[str(key)], f"unknown key '{key}'{nearest(key, ['rewards'])}")
    items = next(value.value for key, value in root.value if key.value == "rewards")
    return [_entry(node, values, faults) for node, values in zip(items, data["rewards"], strict=True)]


def _entry(node: yaml.Node, values: Any, faults: Faults) -> Entry:
    line = node.start_mark.line + 1
    if not isinstance(values, dict):
        faults.add(line, f"{values!r} is no entry; write `- name: {values}`")
        return Entry({}, {}, line)
    settings = next((value for key, value in node.value if key.value == "settings"), None)
    inside = key_lines(settings) if isinstance(settings, yaml.MappingNode) else {}
    entry = Entry(values, key_lines(node), line, inside)
    for key in [key for key in values if key not in KEYS]:
        faults.add(entry.line_of(str(key)), f"unknown key '{key}'{nearest(key, KEYS)}")
    return entry
