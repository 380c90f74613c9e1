"""Two evaluations of the same rows, side by side: what changed, for which rows, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omnirl_tools.evaluation.intervals import bootstrap_interval, mcnemar
from omnirl_tools.evaluation.layout import aligned
from omnirl_tools.evaluation.lines import by_row
from omnirl_tools.evaluation.measures import FORMAT_REWARDS, Line, groups, measures


@dataclass(frozen=True)
class Change:
    """One measure on one group of rows, before and after. Only rows that both files judge are counted."""

    measure: str
    """`score`, `accuracy`, or a reward's name."""
    kind: str
    """`all`, `modality` or `task`."""
    group: str
    n: int
    before: float
    after: float
    low: float
    """Ends of the interval of `difference`: paired bootstrap over rows."""
    high: float
    wins: int
    """Rows that went up."""
    losses: int
    p_value: float | None
    """McNemar's exact test where every value is 0 or 1, otherwise None."""

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def verdict(self) -> str:
        """`up` or `down` where the interval excludes 0, otherwise `unsure`."""
        return "up" if self.low > 0 else "down" if self.high < 0 else "unsure"


def compare(
    before: Sequence[Line],
    after: Sequence[Line],
    *,
    format_rewards: Sequence[str] = FORMAT_REWARDS,
    weights: Mapping[str, float] | None = None,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> list[Change]:
    """Pair two evaluations by row and return each measure's change, on all rows and on each group.

    `format_rewards` names the rewards that the accuracy part leaves out. `weights` default to those that the
    lines carry. Measures come in the order score, accuracy, rewards; groups in the order all, modalities,
    tasks.
    """
    pairs = pair_lines(before, after)
    changes = []
    found = measures([line for pair in pairs for line in pair], format_rewards, weights)
    for name, measure in found.items():
        values = np.array([[_number(measure(old)), _number(measure(new))] for old, new in pairs])  # (n, 2)
        for kind, group, members in groups([old for old, _ in pairs]):
            chosen = values[members]
            chosen = chosen[~np.isnan(chosen).any(axis=1)]
            if len(chosen):
                changes.append(_change(name, kind, group, chosen, level, n_resamples, seed))
    return changes


def pair_lines(before: Sequence[Line], after: Sequence[Line]) -> list[tuple[Line, Line]]:
    """Return the two lines of each row, in the order of `before`.

    Raises ValueError when the files do not hold the same rows: their figures could not be compared.
    """
    old, new = by_row(before), by_row(after)
    if odd := [key for key in [*old, *new] if (key in old) != (key in new)]:
        named = ", ".join(repr((old | new)[key]["row_id"]) for key in odd[:10])
        more = f" and {len(odd) - 10} more" if len(odd) > 10 else ""
        raise ValueError(
            f"compare: {len(odd)} rows are in only one of the two evaluations: {named}{more}; "
            "evaluate both on the same rows"
        )
    return [(line, new[key]) for key, line in old.items()]


def extremes(
    before: Sequence[Line], after: Sequence[Line], n: int = 5, measure: str = "score"
) -> tuple[list[tuple[Line, Line]], list[tuple[Line, Line]]]:
    """Return the rows that gained most and those that lost most, at most `n` each, the largest change first.

    `measure` is `score` or a reward's name. Rows that did not change are in neither.
    """

    def value(line: Line) -> float | None:
        return line["score"] if measure == "score" else line["rewards"].get(measure)

    judged = [
        (new_value - old_value, (old, new))
        for old, new in pair_lines(before, after)
        if (old_value := value(old)) is not None and (new_value := value(new)) is not None
    ]
    wins = sorted((pair for pair in judged if pair[0] > 0), key=lambda pair: -pair[0])
    losses = sorted((pair for pair in judged if pair[0] < 0), key=lambda pair: pair[0])
    return [pair for _, pair in wins[:n]], [pair for _, pair in losses[:n]]


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _change(
    measure: str, kind: str, group: str, values: np.ndarray, level: float, n_resamples: int, seed: int
) -> Change:
    before, after = values[:, 0], values[:, 1]
    low, high = bootstrap_interval(after - before, level=level, n_resamples=n_resamples, seed=seed)
    wins, losses = int((after > before).sum()), int((after < before).sum())
    is_binary = np.isin(values, (0.0, 1.0)).all()
    p_value = mcnemar(wins, losses) if is_binary else None
    return Change(
        measure,
        kind,
        group,
        len(values),
        before.mean().item(),
        after.mean().item(),
        low,
        high,
        wins,
        losses,
        p_value,
    )


def table(
    changes: Sequence[Change],
    detailed: Sequence[str] = ("score", "accuracy"),
    names: tuple[str, str] = ("before", "after"),
    p_values: bool = False,
) -> str:
    """Lay the changes out as plain text for a terminal.

    `detailed` measures are shown for each modality and task too, the others on all rows only. The last column says
    `up` or `down` where the interval excludes 0; with `p_values`, McNemar's stand before it.
    """
    head = ("", "rows", *names, "change", "95 % interval", "rows up/down", *(["p"] if p_values else []), "")
    lines: list[tuple[str, ...]] = []
    previous = None
    for change in changes:
        if change.kind != "all" and change.measure not in detailed:
            continue
        block = change.measure if change.measure in detailed else "rewards"
        if previous not in (None, block):
            lines.append(("",) * len(head))
        previous = block
        lines.append(_cells(change, p_values))
    return aligned([head, *lines])


def _cells(change: Change, p_values: bool) -> tuple[str, ...]:
    p_value = "" if change.p_value is None else f"{change.p_value:.2g}"
    return (
        change.measure if change.kind == "all" else f"  {change.kind} {change.group}",
        str(change.n),
        f"{change.before:.3f}",
        f"{change.after:.3f}",
        f"{change.difference:+.3f}",
        f"{change.low:+.3f} .. {change.high:+.3f}",
        f"{change.wins}/{change.losses}",
        *([p_value] if p_values else []),
        "" if change.verdict == "unsure" else change.verdict,
    )
