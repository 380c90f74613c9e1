"""From a scorer, which judges one sample, to a reward, which TRL calls on a batch.

A scorer is a plain function `scorer(text[, solution], *, settings...) -> float | None`: 0.0 is wrong, None is
unjudgeable (no readable gold), an exception is a bug. Its first argument is the whole completion, or, for a
scorer marked `@on_answer`, the answer that `text.answer_text` finds in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omnirl_core.rewards.settings import Scorer, setting_faults, signature_of
from omnirl_core.text import answer_text, completion_text
from omnirl_core.types import Completion

__all__ = ["Reward", "Scorer", "on_answer"]


def on_answer(scorer: Scorer) -> Scorer:
    """Mark a scorer of plain text: as a reward it is given the answer, and scores 0.0 when there is none."""
    scorer.reads = "answer"  # type: ignore[attr-defined]
    return scorer


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
    tasks: tuple[str, ...] | None = None  # rows of other tasks get None
    gates: tuple["Reward", ...] = ()  # the first of them that judges the row decides
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
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Completion | None] = (),
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One score a completion; None for rows of other tasks and for rows without a readable gold."""
        columns["prompts"] = prompts
        rows = [_row(columns, i, len(completions)) for i in range(len(completions))]
        applies = [self.applies_to(row.get("task")) for row in rows]
        scores = [
            self.score(completion, **row) if wanted else None
            for completion, row, wanted in zip(completions, rows, applies, strict=True)
        ]
        unjudgeable = sum(wanted and score is None for wanted, score in zip(applies, scores, strict=True))
        if log_metric is not None and unjudgeable:
            log_metric(f"{self.name}/unjudgeable", unjudgeable)
        return scores

    def applies_to(self, task: str | None) -> bool:
        return self.tasks is None or task in self.tasks

    def score(self, completion: Completion | None, /, solution: Any = None, **columns: Any) -> float | None:
        """Score of one completion; `columns` holds the row's other columns."""
        text = answer_text(completion) if self.reads == "answer" else completion_text(completion)
        score = self._ungated(text, solution, columns)
        if score is None or not self.gates:
            return score
        gate = self._gate(completion, solution, columns)
        if gate is None:
            return None
        if self.gate_at is None:
            return score * gate
        return score if gate >= self.gate_at else 0.0

    def _ungated(self, text: str | None, solution: Any, columns: Mapping[str, Any]) -> float | None:
        expects = signature_of(self.scorer)
        # a column fills only what the scorer declares: any other column of a setting's name is data
        arguments = {name: columns[name] for name in expects.columns if name in columns}
        if expects.takes_any:
            arguments |= {name: value for name, value in columns.items() if name not in expects.keywords}
        arguments |= dict(self.settings)
        gold = (solution,) if expects.takes_solution else ()
        try:
            score = self.scorer("" if text is None else text, *gold, **arguments)
        except Exception as error:
            error.add_note(f"in reward '{self.name}', completion {text!r:.200}, solution {solution!r:.200}")
            raise
        if score is None or score != score:
            return None
        return 0.0 if text is None else float(score)

    def _gate(self, completion: Any, solution: Any, columns: Mapping[str, Any]) -> float | None:
        for gate in self.gates:
            if gate.applies_to(columns.get("task")):
                score = gate.score(completion, solution, **columns)
                if score is not None:
                    return score
        return None


def _row(columns: Mapping[str, Any], i: int, n: int) -> dict[str, Any]:
    """Row i of TRL's columns: lists as long as the batch; what is no column (trainer_state) is left out."""
    rows = {
        name: values[i] for name, values in columns.items() if isinstance(values, list) and len(values) == n
    }
    if "prompts" in rows:
        rows["prompt"] = rows.pop("prompts")
    return rows
