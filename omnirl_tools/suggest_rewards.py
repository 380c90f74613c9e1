"""A rewards.yaml from what the references of a data set look like: which judges, for which tasks, and why.

What the samples do not tell is `unclear`, in the result and as comments in the file: nothing is guessed silently.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from omnirl_core.data import DataError, Record
from omnirl_core.data.images import image_size
from omnirl_core.rewards import load_rewards
from omnirl_core.rewards.reward import Reward
from omnirl_core.types import counted
from omnirl_tools.checks.hacks import formed
from omnirl_tools.checks.reference import reference_answers
from omnirl_tools.checks.reward_check import FULL
from omnirl_tools.suggestion.judges import FAMILIES, RULES, Group, Judge
from omnirl_tools.suggestion.kinds import Reference, read_reference

SEEN = 2000
"""Samples that are looked at, spread evenly."""
TRIED = 200
"""Samples whose own references are scored."""
FREE_TEXT = {"overlap", "bleu", "answer_or_overlap"}
AGREED = 0.3
"""People who answer differently leave VQA's best answer below full marks."""
NOT_TRIED = {"think_format", "repetition", "code", "judge"}
"""Rewards of form, and one whose references cannot be written down."""
SOFT = FREE_TEXT | {"box_iou", "box_f1", "point_gaussian"}
"""Judges that pay a part for near misses; beside them the form weighs less."""


@dataclass(frozen=True)
class Suggestion:
    """A rewards.yaml ("" where no reward fits), and what the samples did not tell, a sentence each."""

    yaml_text: str
    unclear: list[str]
    judges: dict[str | None, tuple[str, ...]]
    """Task (None: samples without one) -> the scorers that judge its answers; of a mix without tasks, names to give."""


def suggest(records: Iterable[Record], space: str | None = None) -> Suggestion:
    """The rewards.yaml for these samples, by task.

    Args:
        records: samples of a data set; of more than SEEN some are looked at, spread evenly.
        space: the space in which the policy writes boxes and points (docs/boxes.md); None leaves it open.

    Raises:
        ValueError: where there are no samples.

    >>> samples = [Record("Is it red?", answer) for answer in ("yes", "no")]
    >>> suggest(samples).judges, suggest(samples).unclear
    ({None: ('yes_no',)}, [])
    """
    every = list(records)
    if not every:
        raise ValueError("no samples to look at")
    seen = every[:: -(-len(every) // SEEN)]
    by_task: dict[str | None, list[Reference]] = {}
    for record in seen:
        by_task.setdefault(record.task, []).append(read_reference(record))
    judges: list[Judge] = []
    unclear: list[str] = []
    for task, references in by_task.items():
        found, open_questions = judges_of(task, Group(references, space))
        prefix = "" if set(by_task) == {None} else "samples without a task: " if task is None else f"task {task!r}: "
        unclear += [prefix + text for text in open_questions]
        _merge(judges, found)
    if not judges:
        return Suggestion("", unclear, {})
    entries = _entries(judges)
    unclear += _unearned(entries, seen)
    n_seen = counted(len(seen), "sample") + (f" of {len(every):,}" if len(seen) < len(every) else "")
    tasks = dict.fromkeys(task for judge in judges for task in judge.tasks)
    chosen = {
        task: tuple(e["name"] for judge in judges if task in judge.tasks for e in judge.entries) for task in tasks
    }
    return Suggestion(_yaml(entries, n_seen, unclear), unclear, chosen)


def judges_of(task: str | None, group: Group) -> tuple[list[Judge], list[str]]:
    """The judges of one task's samples, several where they mix kinds; and what is unclear."""
    n_all, n_empty = len(group.all), sum(reference.kind == "empty" for reference in group.all)
    unclear = []
    if missing := n_all - len(group.known) - n_empty:
        unclear.append(f"{missing} of {n_all} samples have no reference, and no reward judges their answers")
    if not group.known:
        return [], unclear or ["all references are empty lists"]
    judge = _judge(group)
    if judge is None:
        return _split(task, group, unclear)
    if n_empty and not group.only("box", "boxes"):
        unclear.append(f"{n_empty} of {n_all} references are empty lists, and no reward judges their answers")
    judge.tasks = [task]
    return [judge], unclear + judge.unclear


def _judge(group: Group) -> Judge | None:
    return next((judge for rule in RULES if (judge := rule(group)) is not None), None)


def _split(task: str | None, group: Group, unclear: list[str]) -> tuple[list[Judge], list[str]]:
    """A judge for each kind of a mix, under tasks that the samples are to name."""
    found, counts = [], []
    for family, kinds in FAMILIES.items():
        own = [reference for reference in group.known if reference.kind in kinds]
        judge = _judge(Group(own, group.space)) if own else None
        if judge is None:
            continue
        judge.tasks = [family if task is None else f"{task}_{family}"]
        counts.append(f"{len(own) / len(group.known):.0%} {judge.tasks[0]}")
        found.append(judge)
        unclear += [f"{judge.tasks[0]}: {text}" for text in judge.unclear]
    if others := [one for one in group.known if not any(one.kind in kinds for kinds in FAMILIES.values())]:
        shown = ", ".join(f"{reference.record.solution!r:.40}" for reference in others[:2])
        unclear.append(f"{len(others)} of {len(group.known)} references are of no known kind: {shown}")
    if len(found) > 1:
        unclear.append(f"the samples mix kinds of references; give each sample its `task`: {', '.join(counts)}")
    return found, unclear


def _merge(judges: list[Judge], found: list[Judge]) -> None:
    """Tasks that are judged alike share their entries."""
    for judge in found:
        same = next((known for known in judges if known.entries == judge.entries), None)
        if same is None:
            judges.append(judge)
        else:
            same.tasks += judge.tasks
            same.why += f"; {judge.why}"


Entry = tuple[dict[str, Any], str]
"""An entry of the file, and the comment above it; "" for none."""


def _entries(judges: Sequence[Judge]) -> list[Entry]:
    """All entries: the form, the judges, and what keeps free text from repeating itself."""
    scorers = [entry["name"] for judge in judges for entry in judge.entries]
    form = 0.1 if SOFT & set(scorers) else 0.2
    entries: list[Entry] = [
        ({"name": "think_format", "weight": form}, "thought and answer in their tags; every sample")
    ]
    routed = len(judges) > 1 or judges[0].tasks != [None]
    free: list[str | None] = []
    for judge in judges:
        if FREE_TEXT & {entry["name"] for entry in judge.entries}:
            free += judge.tasks
        names = {}
        for entry in judge.entries:
            name = entry["name"]
            names[name] = name if scorers.count(name) == 1 else f"{name}_{judge.tasks[0] or 'other'}"
        for number, entry in enumerate(judge.entries):
            made = {"name": names[entry["name"]]}
            made |= {} if made["name"] == entry["name"] else {"scorer": entry["name"]}
            made |= {"weight": entry["weight"]} | ({"tasks": judge.tasks} if routed else {})
            made |= {
                key: names.get(value, value) if key == "gated_by" else value
                for key, value in entry.items()
                if key not in made
            }
            entries.append((made, "" if number else judge.why))
    if free:
        repetition = {"name": "repetition", "weight": -0.2} | ({"tasks": free} if routed else {})
        entries.append((repetition, "repeated 4-grams are taken off, where answers are free text"))
    return entries


def _yaml(entries: Iterable[Entry], seen: str, unclear: Sequence[str]) -> str:
    lines = [
        f"# Suggested by `omnirl suggest-rewards` from {seen}; look at it with `omnirl check-rewards` before a run."
    ]
    lines += [f"# unclear: {text}" for text in unclear]
    lines.append("rewards:")
    for entry, why in entries:
        lines += [f"  # {why}"] if why else []
        lines.append(f"  - {_flow(entry)}")
    return "\n".join(lines) + "\n"


def _flow(entry: Mapping[str, Any]) -> str:
    return yaml.safe_dump(
        dict(entry), default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True
    ).strip()


def _unearned(entries: Sequence[Entry], seen: Sequence[Record]) -> list[str]:
    """What the run's own loader and rewards have against the file: references that do not earn full marks."""
    with tempfile.TemporaryDirectory(prefix="omnirl_suggested_") as folder:
        path = Path(folder, "rewards.yaml")
        path.write_text(_yaml(entries, "", []), encoding="utf-8")
        rewards = load_rewards(path)
    judges = [reward for reward in rewards if getattr(reward.scorer, "__name__", "") not in NOT_TRIED]
    tried = seen[:: -(-len(seen) // TRIED)]
    found = []
    for reward in judges:
        scores = [_own_score(reward, record) for record in tried if reward.applies_to(record.task)]
        least = AGREED if getattr(reward.scorer, "__name__", "") == "vqa_accuracy" else FULL
        below = [score for score in scores if score is not None and score < least]
        if below:
            worst = (
                f"{len(below)} of {len(scores)} references tried earn less than full marks, the least {min(below):.2f}"
            )
            found.append(f"{reward.name}: {worst}; `omnirl check-rewards` names them")
    return found


def _own_score(reward: Reward, record: Record) -> float | None:
    """What a sample's own reference earns at best; 0.0 where it is not read, None where it is not written."""
    try:
        sizes = [image_size(path) for path in record.images]
    except (DataError, OSError):
        return None
    columns = {
        **record.extra,
        "problem": record.problem,
        "image_sizes": sizes,
        "resized_sizes": sizes,
        "task": record.task,
    }
    try:
        answers = reference_answers(record.solution, [reward], sizes, sizes)
        scores = [reward.score(formed(answer), record.solution, **columns) for answer in answers]
    except ValueError:  # a space whose size the sample does not have: the note on spaces stands already
        return None
    return max((score or 0.0 for score in scores), default=None)
