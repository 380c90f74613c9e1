"""Whether every sample has a reward that judges its answer: one that none judges trains on format alone."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from omnirl_core.rewards.registry import FileFunction
from omnirl_core.rewards.reward import Reward
from omnirl_core.text import reference_texts

FORM = (
    "think_format", "length_band", "repetition", "language_consistency", "overlong", "json_format", "markdown_format",
)  # fmt: skip
"""Scorers that look at how a completion is written, not at whether it is right."""
MOST_TRIED = 2000
"""Samples whose solutions are tried, spread evenly; routing by task is looked at for all."""
_PROBE = "<think>a</think><answer>a</answer>"


class Sample(NamedTuple):
    """What routing and judging need of a sample."""

    row_id: str
    task: str | None
    solution: object
    options: object = None


def accuracy_rewards(rewards: Iterable[object]) -> list[Reward]:
    """Those that judge whether an answer is right."""
    return [one for one in rewards if isinstance(one, Reward) and getattr(one.scorer, "__name__", "") not in FORM]


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
        return judge.score(_PROBE, sample.solution, task=sample.task, options=sample.options) is not None
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
