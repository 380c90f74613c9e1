"""From a scorer, which judges one sample, to a reward, which TRL calls on a batch.

A scorer is a plain function `scorer(text[, solution], *, settings...) -> float | None`: 0.0 is wrong, None is
unjudgeable (no readable reference), an exception is a bug. Its first argument is the whole completion, or, for a
scorer marked `@on_answer`, the answer that `text.answer_text` finds in it. Its other parameters are columns of the
data and settings; names, defaults and types are read from its signature.
"""

import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from types import MappingProxyType
from typing import Any

from omnirl_core.rewards.batch import counted_runaways, in_threads, recent_scores
from omnirl_core.text import answer_text, completion_text
from omnirl_core.types import Completion, nearest, value_faults

logger = logging.getLogger(__name__)

Scorer = Callable[..., float | None]

ROW_COLUMNS = (
    "completion_ids", "image_sizes", "resized_sizes", "prompt", "problem", "task", "reference_probabilities",
)  # fmt: skip
"""Parameters that the batch fills row by row; rewards.yaml cannot set them."""


def on_answer(scorer: Scorer) -> Scorer:
    """Mark a scorer of plain text: as a reward it is given the answer, and scores 0.0 when there is none."""
    scorer.reads = "answer"  # type: ignore[attr-defined]
    return scorer


def reads_columns(*names: str) -> Callable[[Scorer], Scorer]:
    """Decorator: columns of the data that fill the scorer's parameters of these names, unless the YAML sets them.

    A parameter without a default, and in your own scorers one whose default is None, needs no declaration. Every
    other parameter is a setting, and a column that happens to have its name is data.
    """

    def mark(scorer: Scorer) -> Scorer:
        scorer.columns = names  # type: ignore[attr-defined]
        return scorer

    return mark


def made_by(maker: Callable[..., object], name: str) -> Callable[[Scorer], Scorer]:
    """Decorator: `maker` makes the scorer's parameter `name`; in its place the reward takes the maker's parameters."""
    parameters = inspect.signature(maker).parameters

    def mark(scorer: Scorer) -> Scorer:
        @wraps(scorer)
        def judged(text: str, *solution: object, **given: Any) -> float | None:
            taken = {key: given.pop(key) for key in parameters if key in given}
            return scorer(text, *solution, **{name: maker(**taken)}, **given)

        own = inspect.signature(scorer)
        kept = [one for one in own.parameters.values() if one.name != name]
        kept += [one.replace(kind=one.KEYWORD_ONLY) for one in parameters.values()]
        judged.__signature__ = own.replace(parameters=kept)  # type: ignore[attr-defined]
        return judged

    return mark


@dataclass(frozen=True)
class Signature:
    """What a scorer can be given, read from its parameters once."""

    takes_solution: bool
    keywords: tuple[str, ...]  # settings and columns
    takes_any: bool  # **columns
    defaults: Mapping[str, Any]
    annotations: Mapping[str, Any]
    columns: tuple[str, ...]  # keywords that a column of the data may fill

    @property
    def settings(self) -> tuple[str, ...]:
        return tuple(name for name in self.keywords if name not in ROW_COLUMNS)


@lru_cache(maxsize=256)
def signature_of(scorer: Scorer) -> Signature:
    """The second positional parameter is the solution, unless it has a default and another name."""
    parameters = list(inspect.signature(scorer).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    second = positional[1] if len(positional) > 1 else None
    takes_solution = second is not None and (
        second.default is second.empty or second.name in ("solution", "reference", "gold")
    )
    if getattr(scorer, "takes_batches", False):  # TRL's signature: every column may come by **kwargs
        takes_solution = any(p.name == "solution" or p.kind == p.VAR_KEYWORD for p in parameters)
    keywords = positional[1 + takes_solution :] + [p for p in parameters if p.kind == p.KEYWORD_ONLY]
    declared = (*ROW_COLUMNS, *getattr(scorer, "columns", ()))
    empty = (inspect.Parameter.empty,) if is_ours(scorer) else (inspect.Parameter.empty, None)
    return Signature(
        takes_solution,
        tuple(p.name for p in keywords),
        any(p.kind == p.VAR_KEYWORD for p in parameters),
        {p.name: p.default for p in keywords if p.default is not p.empty},
        {p.name: p.annotation for p in keywords if p.annotation is not p.empty},
        tuple(p.name for p in keywords if p.default in empty or p.name in declared),
    )


def is_ours(scorer: Scorer) -> bool:
    """A scorer of this package declares its columns; `threshold: float | None = None` is no column there."""
    return str(getattr(scorer, "__module__", "")).startswith("omnirl_core.rewards") and inspect.isfunction(scorer)


def setting_faults(scorer: Scorer, settings: Mapping[str, object]) -> list[str]:
    """One message for each setting that the scorer does not have, or not with that value."""
    expects = signature_of(scorer)
    faults = []
    for name, value in settings.items():
        if name in ROW_COLUMNS:
            faults.append(f"'{name}' comes with each row and cannot be set")
        elif name in expects.keywords:
            faults += value_faults(name, value, expects.annotations.get(name))
        elif not expects.takes_any:
            faults.append(f"unknown setting '{name}'{nearest(name, expects.settings)}")
    return faults or (range_faults(settings) if is_ours(scorer) else [])


_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "relative_tolerance tolerance": ("from 0 to below 1", lambda value: 0 <= value < 1),
    "threshold thresholds light": ("above 0 and up to 1", lambda value: 0 < value <= 1),
    "floor contradiction gamma": ("from 0 to 1", lambda value: 0 <= value <= 1),
    "alpha": ("above 0 and below 1", lambda value: 0 < value < 1),
    "absolute_tolerance workers retries beta buffer surplus min_spread": ("0 or more", lambda value: value >= 0),
    "timeout_s total_timeout_s power low high edge limit radius sigma": ("above 0", lambda value: value > 0),
    "most_requests most_tokens max_order max_boxes order": ("1 or more", lambda value: value >= 1),
    "memory_bytes": ("16 MiB (16777216) or more", lambda value: value >= 16 << 20),
}
RANGES = {name: allowed for names, allowed in _RANGES.items() for name in names.split()}


def range_faults(settings: Mapping[str, object]) -> list[str]:
    """One message for each setting of this package's scorers that is out of its range.

    >>> range_faults({"relative_tolerance": 5}), range_faults({"light": float("nan")})
    (['relative_tolerance: 5 must be from 0 to below 1'], ['light: nan must be above 0 and up to 1'])
    """
    faults = []
    for name in filter(RANGES.__contains__, settings):
        value: Any = settings[name]
        values = value if isinstance(value, list | tuple) else [value]
        numbers = [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]
        allowed, lies_in = RANGES[name]
        faults += [f"{name}: {one} must be {allowed}" for one in numbers if not (math.isfinite(one) and lies_in(one))]
        if name == "thresholds" and not numbers:
            faults.append("thresholds: an empty list judges nothing; leave it out for COCO's")
    return faults


@dataclass(frozen=True)
class Reward:
    """A named, weighted scorer with its settings; call it as TRL does, or `score` one sample.

    >>> from omnirl_core.rewards import think_format
    >>> reward = Reward("format", think_format, weight=0.2)
    >>> reward(completions=["<think>1 + 1</think><answer>2</answer>", "2"])
    [1.0, 0.0]
    """

    name: str
    scorer: Scorer
    weight: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    # Rows of other tasks get None; None in it: rows without a task
    tasks: tuple[str | None, ...] | None = field(default=None, hash=False)
    gates: tuple["Reward", ...] = field(default=(), hash=False)  # the first of them that judges the row decides
    gate_at: float | None = None  # below it the score is 0.0; None multiplies by the gate's score
    reads: str = ""  # "answer" or "completion"; "" takes what the scorer is marked with
    timeout_s: float | None = None  # most seconds of one call, which the trainer watches

    def __post_init__(self) -> None:
        if not self.reads:
            object.__setattr__(self, "reads", getattr(self.scorer, "reads", "completion"))
        faults = setting_faults(self.scorer, self.settings)
        if faults:
            raise TypeError(f"reward '{self.name}': " + "; ".join(faults))

    @property
    def __name__(self) -> str:  # the name under which TRL logs
        return self.name

    def __call__(
        self,
        prompts: Sequence[object] | None = None,
        completions: Sequence[Completion | None] = (),
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One score a completion; None for rows of other tasks and for rows without a readable reference."""
        if self.needs_policy and "reference_probabilities" not in columns:
            _say_no_policy(self.name)
        columns["prompts"] = prompts
        rows = _rows(columns, len(completions))
        applies = [self.applies_to(row.get("task")) for row in rows]
        others = {name: value for name, value in columns.items() if not isinstance(value, list)}
        scores = self._batch(completions, rows, False, {**others, "log_metric": log_metric})
        unjudgeable = sum(wanted and score is None for wanted, score in zip(applies, scores, strict=True))
        if log_metric is not None and unjudgeable:
            log_metric(f"{self.name}/unjudgeable", unjudgeable)
        return scores

    def _batch(
        self,
        completions: Sequence[Completion | None],
        rows: list[dict[str, Any]],
        as_gate: bool,
        others: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[float | None]:
        """Scores of a batch. What a gate judged is kept until its own call on the batch, and the reverse."""
        used = [(one, *values) for one, values in zip(completions, self._used(rows), strict=True)]
        scores = recent_scores.take(self, used, as_gate)
        if scores is None:
            if self._takes_batches:
                own = self._own_batch(completions, rows, others)
            else:
                asked = getattr(self.scorer, "samples_at_a_time", None)
                at_a_time = 1 if asked is None else asked(**self.settings)
                with counted_runaways():
                    own = in_threads(lambda i: self._own(completions[i], rows[i]), len(rows), at_a_time)
            scores = self._after_gates(own, completions, rows)
            recent_scores.keep(self, used, as_gate, scores)
        return scores

    def _own(self, completion: Completion | None, row: Mapping[str, Any]) -> float | None:
        """The score of one row without its gates; None for rows of other tasks."""
        if not self.applies_to(row.get("task")):
            return None
        columns = {name: value for name, value in row.items() if name != "solution"}
        return self._ungated(self._text(completion), row.get("solution"), columns)

    @property
    def needs_policy(self) -> bool:
        """Whether it judges only where OmniGRPOTrainer asks the policy for it, and gives None elsewhere."""
        return getattr(self.scorer, "needs_policy", False)

    @property
    def _takes_batches(self) -> bool:
        return getattr(self.scorer, "takes_batches", False)

    def _own_batch(
        self, completions: Sequence[Completion | None], rows: Sequence[Mapping[str, Any]], others: Mapping[str, Any]
    ) -> list[float | None]:
        """Scores, without gates, of a function of batches: called once, with the rows of its tasks."""
        chosen = [i for i, row in enumerate(rows) if self.applies_to(row.get("task"))]
        scores: list[float | None] = [None] * len(rows)
        if not chosen:
            return scores
        columns = {"prompts" if name == "prompt" else name: [rows[i].get(name) for i in chosen] for name in rows[0]}
        read = [self._text(one) or "" if self.reads == "answer" else one for one in completions]
        given = {**others, **columns, "completions": [read[i] for i in chosen], **self.settings}
        values = self.scorer.batch(given, len(chosen))  # type: ignore[attr-defined]  # of a FileFunction
        for i, value in zip(chosen, values, strict=True):
            scores[i] = None if value is None or value != value else float(value)
        return scores

    def _after_gates(
        self, scores: list[float | None], completions: Sequence[Completion | None], rows: list[dict[str, Any]]
    ) -> list[float | None]:
        """The scores as the first gate that judges each row lets them through."""
        if not self.gates or all(score is None for score in scores):
            return scores
        judged: list[float | None] = [None] * len(rows)
        for gate in self.gates:
            if any(score is not None and by is None for score, by in zip(scores, judged, strict=True)):
                said = gate._batch(completions, rows, as_gate=True)
                judged = [new if by is None else by for by, new in zip(judged, said, strict=True)]
        return [None if score is None else self._through(score, by) for score, by in zip(scores, judged, strict=True)]

    def _through(self, score: float, gate: float | None) -> float | None:
        if gate is None:
            return None
        if self.gate_at is None:
            return score * gate
        return score if gate >= self.gate_at else 0.0

    def _used(self, rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """What the score of each row depends on, besides the completion."""
        if self.gates or self._takes_batches:
            return [list(row.values()) for row in rows]
        expects = signature_of(self.scorer)
        names = ("solution", "task", *expects.keywords)
        return [[row.get(name) for name in (sorted(row) if expects.takes_any else names)] for row in rows]

    def _text(self, completion: Completion | None) -> str | None:
        return answer_text(completion) if self.reads == "answer" else completion_text(completion)

    def applies_to(self, task: str | None) -> bool:
        return self.tasks is None or task in self.tasks

    def score(self, completion: Completion | None, /, solution: object = None, **columns: object) -> float | None:
        """Score of one completion; `columns` holds the row's other columns."""
        own = self._ungated(self._text(completion), solution, columns)
        return self._after_gates([own], [completion], [{**columns, "solution": solution}])[0]

    def _ungated(self, text: str | None, solution: object, columns: Mapping[str, Any]) -> float | None:
        if self._takes_batches:
            said = f"<answer>{text or ''}</answer>" if self.reads == "answer" else text or ""
            turns: Any = [{"role": "assistant", "content": said}]
            [score] = self._own_batch([turns], [{**columns, "solution": solution}], {})
            return score
        expects = signature_of(self.scorer)
        # a column fills only what the scorer declares: any other column of a setting's name is data
        arguments = {name: columns[name] for name in expects.columns if name in columns}
        if expects.takes_any:
            arguments |= {name: value for name, value in columns.items() if name not in expects.keywords}
        arguments |= dict(self.settings)
        reference = (solution,) if expects.takes_solution else ()
        try:
            score = self.scorer("" if text is None else text, *reference, **arguments)
        except Exception as error:
            error.add_note(f"in reward '{self.name}', completion {text!r:.200}, solution {solution!r:.200}")
            raise
        if score is None or score != score:
            return None
        return 0.0 if text is None else float(score)


@lru_cache(maxsize=64)
def _say_no_policy(name: str) -> None:
    """Once a process and reward."""
    logger.warning(
        "reward '%s' needs the policy's probabilities, which only OmniGRPOTrainer hands to it; here it judges nothing "
        "(None for every completion)",
        name,
    )


def _rows(columns: Mapping[str, Any], n: int) -> list[dict[str, Any]]:
    """Rows of TRL's columns: lists as long as the batch; what is no column (trainer_state) is left out."""
    found = {name: values for name, values in columns.items() if isinstance(values, list) and len(values) == n}
    if "prompts" in found:
        found["prompt"] = found.pop("prompts")
    if not found:
        return [{} for _ in range(n)]
    return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
