"""rewards.yaml -> list of Reward, and whether they judge every sample: one that none judges trains on format alone.

    rewards:
      - {name: think_format, weight: 0.2}
      - {name: answer_or_overlap, tasks: [null]}  # samples that name no task
      - name: iou_at_half              # a name of your own
        scorer: box_iou                # for a registered scorer
        tasks: [boxes]                 # rows of other tasks get None
        settings: {threshold: 0.5}
      - function: my_rewards.py:brief  # your own scorer, path relative to this file
      - {name: length_band, weight: 0.1, gated_by: overlap, gate_at: 0.5}

All faults of a file are reported at once, each with its line.
"""

import inspect
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from omnirl_core.rewards.registry import OF_FORM, FileFunction, scorer_named
from omnirl_core.rewards.reward import Reward, Scorer, setting_faults
from omnirl_core.text import reference_texts
from omnirl_core.types import nearest
from omnirl_core.yaml_loader import YamlFault, key_lines, read_yaml

KEYS = ("name", "scorer", "function", "weight", "tasks", "settings", "reads", "gated_by", "gate_at", "timeout_s")
FILES = ("frequencies", "cache")  # settings that name a file, relative to the rewards.yaml
MOST_SHOWN = 10
MOST_TRIED = 2000
"""Samples whose solutions are tried, spread evenly; routing by task is looked at for all."""


class RewardsError(ValueError):
    """Everything that is wrong with a rewards.yaml, one fault a line."""

    def __init__(self, faults: list[str]) -> None:
        more = [f"... and {len(faults) - MOST_SHOWN} more"] if len(faults) > MOST_SHOWN else []
        super().__init__("\n".join(faults[:MOST_SHOWN] + more))
        self.faults = faults


class Faults:
    """What is wrong with a file, collected for one error."""

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
    for line, key in text.given_twice:
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


PROBE = "<think>a</think><answer>a</answer>"
"""A completion that every scorer can be tried on, so that what a setting breaks, breaks before training."""


def load_rewards(path: str | Path) -> list[Reward]:
    """Rewards of a rewards.yaml, in its order; RewardsError tells every fault with its line and nearest name."""
    path = Path(path)
    faults = Faults(path)
    entries = read_entries(path, faults)
    rewards = [_reward(entry, faults) for entry in entries]
    _check_names(entries, faults)
    ready = [reward for reward in rewards if reward is not None]
    if faults.found:
        raise faults.error()
    named = {reward.name: reward for reward in ready}
    return [
        replace(reward, gates=tuple(named[name] for name in entry.names("gated_by")), gate_at=entry["gate_at"])
        for entry, reward in zip(entries, ready, strict=True)
    ]


def _reward(entry: Entry, faults: Faults) -> Reward | None:
    """The reward of an entry, without its gates; None where the entry has a fault."""
    before = len(faults.found)
    scorer = _scorer(entry, faults) if entry.values else None
    weight = _number(entry, "weight", faults)
    _number(entry, "gate_at", faults, between=(0, 1))
    timeout_s = _number(entry, "timeout_s", faults)
    if timeout_s is not None and timeout_s <= 0:
        faults.add(entry.line_of("timeout_s"), f"timeout_s: {timeout_s:g} is not above 0")
    tasks = _texts(entry, "tasks", faults, null=True)  # a null stands for samples without a task
    _texts(entry, "gated_by", faults)
    if entry["reads"] not in (None, "answer", "completion"):
        faults.add(entry.line_of("reads"), f"reads: {entry['reads']!r} is neither 'answer' nor 'completion'")
    settings = entry["settings"] or {}
    if not isinstance(settings, dict):
        faults.add(entry.line_of("settings"), f"settings: {settings!r} is no mapping of names to values")
    elif scorer is not None:
        for message in setting_faults(scorer, settings):
            faults.add(entry.line_of_setting(message), f"{entry.name}: {message}")
    if scorer is None or len(faults.found) > before:
        return None
    weight = 1.0 if weight is None else weight
    files = (*FILES, *getattr(scorer, "files", ()))
    settings = {name: str(faults.path.parent / value) if name in files else value for name, value in settings.items()}
    reward = Reward(
        entry.name, scorer, weight, settings, tasks or None, reads=entry["reads"] or "", timeout_s=timeout_s
    )
    _try(reward, entry, faults)
    return reward


def _scorer(entry: Entry, faults: Faults) -> Scorer | None:
    key = next((key for key in ("function", "scorer", "name") if entry[key] is not None), None)
    if key is None:
        faults.add(entry.line, "an entry wants a `name:` or a `function:`")
        return None
    if entry["function"] is not None and entry["scorer"] is not None:
        faults.add(entry.line_of("scorer"), "an entry has a `scorer:` or a `function:`, not both")
    try:
        return _file_function(entry[key], faults.path) if key == "function" else scorer_named(entry[key])
    except Exception as error:  # noqa: BLE001  the user's own file may raise anything
        faults.add(entry.line_of(key), error.args[0] if isinstance(error, LookupError) else f"{key}: {error}")
        return None


def _file_function(reference: object, yaml_path: Path) -> Scorer:
    file, _, name = str(reference).rpartition(":")
    if not file or not name:
        raise ValueError(f"{reference!r} is not of the form path/to/file.py:function")
    scorer = FileFunction((yaml_path.parent / file).resolve(), name)
    if inspect.iscoroutinefunction(scorer.load()):
        raise ValueError(f"'{name}' is asynchronous, which a rewards.yaml does not take; make it a plain function")
    return scorer


def _number(entry: Entry, key: str, faults: Faults, between: tuple[float, float] | None = None) -> float | None:
    value = entry[key]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        faults.add(entry.line_of(key), f"{key}: {value!r} is not a number{_as_yaml_wants(value)}")
        return None
    if between and not between[0] <= value <= between[1]:
        faults.add(entry.line_of(key), f"{key}: {value} is not between {between[0]} and {between[1]}")
    return float(value)


def _as_yaml_wants(value: object) -> str:
    """YAML 1.1 reads 1e-1 as text."""
    try:
        return f"; YAML wants {float(value)}" if isinstance(value, str) else ""
    except ValueError:
        return ""


def _texts(entry: Entry, key: str, faults: Faults, null: bool = False) -> tuple[Any, ...]:
    """One name or a list of names, where `null` allows it with nulls in it."""
    values = entry.names(key)
    if not all(isinstance(value, str) or (null and value is None) for value in values) or entry[key] == []:
        faults.add(entry.line_of(key), f"{key}: {entry[key]!r} is neither a name nor a list of names")
    return tuple(values)


def _check_names(entries: list[Entry], faults: Faults) -> None:
    """Names must differ, and gates be other entries that have no gates themselves."""
    named: dict[str, Entry] = {}
    for entry in entries:
        if entry.name and entry.name in named:
            remedy = f"give it a name of its own and `scorer: {entry.name}`"
            faults.add(entry.line, f"a second reward named '{entry.name}'; {remedy}")
        named.setdefault(entry.name, entry)
    for entry in entries:
        line = entry.line_of("gated_by")
        for gate in entry.names("gated_by"):
            others = [name for name, other in named.items() if other is not entry and not other["gated_by"]]
            if gate not in others:
                faults.add(line, f"gated_by: '{gate}' is no other, ungated reward here{nearest(gate, others)}")
        if entry["gate_at"] is not None and not entry["gated_by"]:
            faults.add(entry.line_of("gate_at"), "gate_at: there is no gated_by that it could apply to")


def _try(reward: Reward, entry: Entry, faults: Faults) -> None:
    """One trial on nothing in particular: a value out of range or a missing package shows now, not in step 1."""
    if isinstance(reward.scorer, FileFunction):
        return  # may want columns that only the batch has
    try:
        check = getattr(reward.scorer, "check", None)  # of a scorer that would ask another machine
        reward.score(PROBE, "a") if check is None else check(**reward.settings)
    except (ValueError, TypeError, ImportError, PermissionError) as error:
        faults.add(entry.line_of_setting(error), f"{entry.name}: {error}")
    except (OSError, RuntimeError):
        pass  # this machine cannot run it; the file may be meant for another, which will tell


# --- do they judge every sample? ---


class Sample(NamedTuple):
    """What routing and judging need of a sample."""

    row_id: str
    task: str | None
    solution: object
    options: object = None


def accuracy_rewards(rewards: Iterable[object]) -> list[Reward]:
    """Those that judge whether an answer is right."""
    return [one for one in rewards if isinstance(one, Reward) and getattr(one.scorer, "__name__", "") not in OF_FORM]


def used_rewards(rewards: Sequence[object], tasks: Iterable[str | None]) -> list[Any]:
    """The rewards without those for samples that name no task, where every sample names one."""
    if None in set(tasks):
        return list(rewards)
    return [one for one in rewards if getattr(one, "tasks", None) != (None,)]


def coverage_error(samples: Sequence[Sample], rewards: Sequence[object]) -> str | None:
    """What is wrong where some samples have no accuracy reward; None where all have one.

    Looked at are rewards of `load_rewards` only: what other functions and reward models judge is not known.

    >>> from omnirl_core.rewards import load_rewards, overlap
    >>> rewards = [Reward("overlap", overlap, tasks=("caption",))]
    >>> print(coverage_error([Sample("rows.json:1", None, "red"), Sample("rows.json:2", "caption", "A cat.")], rewards))
    1 of 2 samples has no reward that judges its answer; only its format would count:
      1 without a task (rows.json:1)
    the rewards name the tasks 'caption'; give these samples one of them, or add a reward for them, such as
      - {name: answer_or_overlap, tasks: [null]}  # null: samples without a task
    """
    judges = accuracy_rewards(rewards)
    if not judges or not all(isinstance(one, Reward) for one in rewards):
        return None
    by_task = {task: [one for one in judges if one.applies_to(task)] for task in {one.task for one in samples}}
    unrouted = [one for one in samples if not by_task[one.task]]
    if unrouted:
        return _unrouted_text(unrouted, len(samples), judges)
    step = max(1, len(samples) // MOST_TRIED)
    tried = samples[::step]
    unread = [one for one in tried if not any(_reads(judge, one) for judge in by_task[one.task])]
    return _unread_text(unread, len(tried), by_task) if unread else None


def _reads(judge: Reward, sample: Sample) -> bool:
    """Whether the judge can read the sample's solution; yes where a trial runs code, asks a judge or wants an image."""
    if judge.needs_policy:
        return reference_texts(sample.solution) is not None
    if isinstance(judge.scorer, FileFunction) or getattr(judge.scorer, "__name__", "") in ("code", "judge"):
        return True
    try:
        return judge.score(PROBE, sample.solution, task=sample.task, options=sample.options) is not None
    except (ValueError, TypeError, ImportError, OSError, RuntimeError):
        return True  # wants what only the run has; the run tells


def _unrouted_text(unrouted: list[Sample], n_samples: int, judges: Sequence[Reward]) -> str:
    named = sorted({task for judge in judges for task in judge.tasks or () if task is not None})
    remedy = "- {name: answer_or_overlap, tasks: [%s]}" % ("null" if unrouted[0].task is None else unrouted[0].task)
    note = "  # null: samples without a task" if unrouted[0].task is None else ""
    return "\n".join(
        [
            f"{_have(len(unrouted), n_samples)} no reward that judges {_their(unrouted)} answer; only "
            f"{_their(unrouted)} format would count:",
            *_by_task(unrouted),
            f"the rewards name the tasks {', '.join(map(repr, named)) or 'of no sample'}; give these samples one of "
            "them, or add a reward for them, such as",
            f"  {remedy}{note}",
        ]
    )


def _unread_text(unread: list[Sample], n_tried: int, by_task: dict[str | None, list[Reward]]) -> str:
    names = dict.fromkeys(judge.name for one in unread for judge in by_task[one.task])
    shown = f"{unread[0].solution!r:.60}"
    return "\n".join(
        [
            f"{_have(len(unread), n_tried)} a solution that no reward can read ({', '.join(names)}), such as {shown}:",
            *_by_task(unread),
            "name rewards that fit these solutions (recipes/rewards/README.md), or leave these samples out",
        ]
    )


def _have(n: int, of: int) -> str:
    return f"{n:,} of {of:,} samples {'has' if n == 1 else 'have'}"


def _their(samples: Sequence[Sample]) -> str:
    return "its" if len(samples) == 1 else "their"


def _by_task(samples: Iterable[Sample]) -> list[str]:
    counts: Counter[str | None] = Counter()
    first: dict[str | None, str] = {}
    for one in samples:
        counts[one.task] += 1
        first.setdefault(one.task, one.row_id)
    return [
        f"  {n:,} {'without a task' if task is None else f'of task {task!r}'} ({first[task]}{', ...' * (n > 1)})"
        for task, n in counts.most_common(10)
    ]
