"""What the curves of a run show: the log's numbers, gathered into panels for the PNG and the HTML alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from omnirl_core.evaluation.lines import read_lines

Point = tuple[float, float]
"""`(step, value)`."""


@dataclass(frozen=True)
class Series:
    """One line of a panel, with a band around it where `low` and `high` are given."""

    label: str
    """The name in the log, or what tells the lines of one panel apart."""
    points: tuple[Point, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Panel:
    title: str
    note: str
    series: tuple[Series, ...]
    is_reward: bool = False
    percent: bool = False

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """Ends of the axis, None where the numbers decide; rewards in [0, 1] share a scale."""
        if not self.is_reward:
            return 0.0, None
        in_unit = all(0 <= value <= 1 for series in self.series for _, value in series.points)
        return (0.0, 1.0) if in_unit else (None, None)


HEALTH = (
    ("Clipped completions", "share that hit the token limit", "completions/clipped_ratio", True),
    ("Groups without signal", "share with one reward for all", "frac_reward_zero_std", True),
    ("KL to the reference", "per token", "kl", False),
    ("Gradient norm", "before clipping", "grad_norm", False),
    ("Entropy", "of the policy, per token", "entropy", False),
)
"""Title, note, name in the log, whether it is a share."""


def read_metrics(run_folder: str | Path) -> list[dict[str, Any]]:
    """Return the training log by step, in order; of a number logged twice (a resumed run) the last one."""
    steps: dict[int, dict[str, Any]] = {}
    for line in read_lines(Path(run_folder) / "metrics.jsonl"):
        if isinstance(line.get("step"), int):
            steps.setdefault(line["step"], {}).update(line)
    return [steps[step] for step in sorted(steps)]


def panels(metrics: Sequence[dict[str, Any]]) -> list[Panel]:
    """Gather the panels for which the log has numbers: the rewards first, then the health of the training."""
    names = sorted({name for line in metrics for name in line})
    rewards = [name.split("/")[1] for name in names if name.startswith("rewards/") and name.endswith("/mean")]
    times = [name for name in names if name.startswith("time/")]
    total = _spread(metrics, "reward", "reward_std")
    found = [Panel("Reward", "weighted sum, mean and spread", _some(total), is_reward=True)]
    for name in rewards:
        series = _spread(metrics, f"rewards/{name}/mean", f"rewards/{name}/std")
        found.append(Panel(name, "mean and spread, before its weight", _some(series), is_reward=True))
    evaluated = _some(_mean(metrics, "eval_reward"))
    found.append(Panel("Reward in evaluation", "weighted sum", evaluated, is_reward=True))
    length = [f"completions/{kind}_length" for kind in ("mean", "min", "max")]
    found.append(Panel("Completion length", "tokens: mean, least to most", _some(_range(metrics, *length))))
    for title, note, name, percent in HEALTH:
        series = _mean(metrics, name)
        is_used = name != "kl" or any(value for _, value in series.points)  # beta 0: nothing to see
        found.append(Panel(title, note, _some(series) if is_used else (), percent=percent))
    spent = _some(*(_mean(metrics, name, name.removeprefix("time/")) for name in times))
    found.append(Panel("Where the time goes", "seconds per step", spent))
    found.append(Panel("Seconds per step", "by the clock, evaluation included", _some(_seconds(metrics))))
    return [panel for panel in found if panel.series]


def thinned(series: Series, most: int) -> Series:
    """Return the series with at most `most` points, means of neighbours; a band keeps its outer ends."""
    n = len(series.points)
    if n <= most:
        return series
    cuts = [range(n * k // most, n * (k + 1) // most) for k in range(most)]
    points = tuple(
        (series.points[cut[-1]][0], sum(series.points[i][1] for i in cut) / len(cut)) for cut in cuts
    )
    low = series.low and tuple(min(series.low[i] for i in cut) for cut in cuts)
    high = series.high and tuple(max(series.high[i] for i in cut) for cut in cuts)
    return Series(series.label, points, low, high)


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Return the running mean over a twentieth of the points on either side; short curves stay as they are.

    >>> smoothed([(1, 0.0), (2, 1.0)])
    [(1, 0.0), (2, 1.0)]
    """
    reach = len(points) // 20
    sums = [0.0, *accumulate(value for _, value in points)]
    means = []
    for place, (step, _) in enumerate(points):
        first, last = max(0, place - reach), min(len(points), place + reach + 1)
        means.append((step, (sums[last] - sums[first]) / (last - first)))
    return means


def _mean(metrics: Sequence[dict], name: str, label: str = "") -> Series:
    return Series(label or name, tuple((line["step"], line[name]) for line in _having(metrics, name)))


def _spread(metrics: Sequence[dict], mean: str, deviation: str) -> Series:
    """A mean and the band of one standard deviation around it; no band where the log does not have it."""
    lines = list(_having(metrics, mean, deviation))
    if not lines:
        return _mean(metrics, mean)
    return Series(
        mean,
        tuple((line["step"], line[mean]) for line in lines),
        tuple(line[mean] - line[deviation] for line in lines),
        tuple(line[mean] + line[deviation] for line in lines),
    )


def _range(metrics: Sequence[dict], mean: str, low: str, high: str) -> Series:
    lines = list(_having(metrics, mean, low, high))
    return Series(
        mean,
        tuple((line["step"], line[mean]) for line in lines),
        tuple(line[low] for line in lines),
        tuple(line[high] for line in lines),
    )


def _seconds(metrics: Sequence[dict]) -> Series:
    """Time between two log lines over the steps between them; none where a resumed run had stood still."""
    lines = list(_having(metrics, "time"))
    pairs = [(old, new) for old, new in pairwise(lines) if new["time"] > old["time"]]
    points = ((new["step"], (new["time"] - old["time"]) / (new["step"] - old["step"])) for old, new in pairs)
    return Series("seconds", tuple(points))


def _having(metrics: Sequence[dict], *names: str) -> Iterable[dict]:
    """Lines in which each name is a finite number: TRL logs None where no row was judged, and NaN occurs."""
    for line in metrics:
        values = [line.get(name) for name in names]
        if all(isinstance(value, int | float) and abs(value) < float("inf") for value in values):
            yield line


def _some(*series: Series) -> tuple[Series, ...]:
    return tuple(one for one in series if one.points)
