"""What the curves of a run show: the log's numbers, gathered into panels for the PNG and the HTML alike."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from omnirl_core.types import Line
from omnirl_tools.evaluation.lines import read_lines
from omnirl_tools.report.run_file import parts

Bounds = tuple[float, float]
"""The least and the most that a reward can be."""
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
    bounds: Bounds | None = None
    """What a reward can be, None where that is not known."""

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the axis: what a reward can be where that is known, otherwise what holds every value and 0.

        The axis of a reward that is known by its values alone need not hold 0. A share has at least 5 % on it.
        """
        values = [value for one in self.series for _, value in one.points]
        values += [end for one in self.series for ends in (one.low, one.high) for end in ends or ()]
        low, high = min(values), max(values)
        if self.bounds is not None:
            low, high = min(low, self.bounds[0]), max(high, self.bounds[1])
        elif self.percent:
            low, high = 0.0, min(1.0, max(1.1 * high, 0.05))
        elif not self.is_reward:
            low = min(0.0, low)
        return low, high if high > low else low + 1.0


HEALTH = (
    ("Clipped completions", "share that hit the token limit", "completions/clipped_ratio", True),
    ("Groups without signal", "share with one reward for all", "frac_reward_zero_std", True),
    ("Groups rejected", "share of those sampled, by dynamic sampling", "dynamic_sampling/rejected_share", True),
    ("Groups kept", "in a generation batch, after dynamic sampling", "dynamic_sampling/kept_groups", False),
    ("Prompts replaced", "share, before the rollout, by dynamic sampling", "dynamic_sampling/replaced_share", True),
    ("Further rollouts", "of a generation batch, by dynamic sampling", "dynamic_sampling/rounds", False),
    ("Reward of all that was sampled", "before dynamic sampling", "dynamic_sampling/sampled_reward", False),
    ("KL to the reference", "per token", "kl", False),
    ("Gradient norm", "before clipping", "grad_norm", False),
    ("Entropy", "of the policy, per token", "entropy", False),
)
"""Title, note, name in the log, whether it is a share."""

GAPS = (
    ("Gap to vLLM", "log-probability of a token, mean difference", "logp_difference/mean", 0.0),
    ("Largest gap to vLLM", "of one token's log-probability", "logp_difference/max", 0.0),
    ("Importance ratio less 1", "trainer over vLLM, mean of the tokens", "importance_ratio/mean", 1.0),
)
"""Title, note, end of the name in the log, what is taken off; a line a modality."""
MODALITIES = ("text", "image", "multi-image")


def read_metrics(run_folder: str | Path) -> list[Line]:
    """Return the training log by step, in order; of a number logged twice (a resumed run) the last one."""
    steps: dict[int, dict[str, Any]] = {}
    for part in parts(Path(run_folder) / "metrics.jsonl"):
        for line in read_lines(part):
            if isinstance(line.get("step"), int):
                steps.setdefault(line["step"], {}).update(line)
    return [steps[step] for step in sorted(steps)]


def panels(metrics: Sequence[dict[str, object]], judging: Sequence[Mapping[str, float]] = ()) -> list[Panel]:
    """Gather the panels for which the log has numbers: the rewards first, then the health of the training.

    `judging` (`judging_weights`) tells how large the weighted sum can be; bands of rewards end there.
    """
    names = sorted({name for line in metrics for name in line})
    rewards = [name.split("/")[1] for name in names if name.startswith("rewards/") and name.endswith("/mean")]
    times = [name for name in names if name.startswith("time/")]
    bounds = {name: _bounds(metrics, name) for name in rewards}
    total = _sum_bounds(judging, bounds)
    found = [_reward_panel("Reward", "weighted sum, mean and spread", metrics, ("reward", "reward_std"), total)]
    for name in rewards:
        keys = f"rewards/{name}/mean", f"rewards/{name}/std"
        found.append(_reward_panel(name, "mean and spread, before its weight", metrics, keys, bounds[name]))
    evaluated = _some(_mean(metrics, "eval_reward"))
    found.append(Panel("Reward in evaluation", "weighted sum", evaluated, is_reward=True, bounds=total))
    length = [f"completions/{kind}_length" for kind in ("mean", "min", "max")]
    found.append(Panel("Completion length", "tokens: mean, least to most", _some(_range(metrics, *length))))
    for title, note, name, percent in HEALTH:
        series = _mean(metrics, name)
        is_used = name != "kl" or any(value for _, value in series.points)  # beta 0: nothing to see
        found.append(Panel(title, note, _some(series) if is_used else (), percent=percent))
    for title, note, name, less in GAPS:
        lines = (_mean(metrics, f"sampling/{kind}/{name}", kind, less) for kind in MODALITIES)
        found.append(Panel(title, note, _some(*lines)))
    spent = _some(*(_mean(metrics, name, name.removeprefix("time/")) for name in times))
    found.append(Panel("Where the time goes", "seconds per step", spent))
    speed = _some(_mean(metrics, "rollout/tokens_per_second"))
    found.append(Panel("Rollout speed", "completion tokens per second, all ranks", speed))
    found.append(Panel("Seconds per step", "by the clock, evaluation included", _some(_seconds(metrics))))
    return [panel for panel in found if panel.series]


def training_seconds(metrics: Sequence[dict[str, object]]) -> float:
    """Seconds from the start of training to its last log line; the time that a resumed run stood still is left out."""
    lines = list(_having(metrics, "time"))
    seconds = [new["time"] - _begun(old, new)[1] for old, new in pairwise(lines)]
    first = sum(value for name, value in lines[0].items() if name.startswith("time/") and value) if lines else 0.0
    return sum(one for one in seconds if one > 0) + first * (lines[0]["step"] if lines else 0)


def thinned(series: Series, most: int) -> Series:
    """Return the series with at most `most` points, means of neighbours; a band keeps its outer ends."""
    n = len(series.points)
    if n <= most:
        return series
    cuts = [range(n * k // most, n * (k + 1) // most) for k in range(most)]
    points = tuple((series.points[cut[-1]][0], sum(series.points[i][1] for i in cut) / len(cut)) for cut in cuts)
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


def _mean(metrics: Sequence[dict], name: str, label: str = "", less: float = 0.0) -> Series:
    return Series(label or name, tuple((line["step"], line[name] - less) for line in _having(metrics, name)))


def _bounds(metrics: Sequence[dict], name: str) -> Bounds | None:
    """(0, 1) where the log does not speak against it, otherwise None.

    Values in [0, 1] with mean m deviate by at most sqrt(m (1 - m)), Bessel's correction for two values aside.
    """
    for line in _having(metrics, f"rewards/{name}/mean"):
        mean, deviation = line[f"rewards/{name}/mean"], line.get(f"rewards/{name}/std")
        most = 2 * mean * (1 - mean)
        if most < -1e-4 or (isinstance(deviation, int | float) and deviation**2 > most + 1e-4):
            return None
    return 0.0, 1.0


def _sum_bounds(judging: Sequence[Mapping[str, float]], bounds: Mapping[str, Bounds | None]) -> Bounds | None:
    """Of the weighted sum of rewards that are all in [0, 1]; which of them judge a sample differs by task."""
    if not judging or not all(bounds.get(name) for weights in judging for name in weights):
        return None
    low = min(sum(min(0.0, weight) for weight in weights.values()) for weights in judging)
    return low, max(sum(max(0.0, weight) for weight in weights.values()) for weights in judging)


def _reward_panel(
    title: str, note: str, metrics: Sequence[dict], names: tuple[str, str], bounds: Bounds | None
) -> Panel:
    series = _spread(metrics, *names, bounds)
    return Panel(title, note, _some(series), is_reward=True, bounds=bounds)


def _spread(metrics: Sequence[dict], mean: str, deviation: str, bounds: Bounds | None) -> Series:
    """A mean and the band of one standard deviation around it, within the bounds; no band where the log has none."""
    lines = list(_having(metrics, mean, deviation))
    if not lines:
        return _mean(metrics, mean)
    least, most = bounds or (-math.inf, math.inf)
    return Series(
        mean,
        tuple((line["step"], line[mean]) for line in lines),
        tuple(max(line[mean] - line[deviation], min(least, line[mean])) for line in lines),
        tuple(min(line[mean] + line[deviation], max(most, line[mean])) for line in lines),
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
    """Time between two log lines over the steps between them, or since a resume; none where the clock went back."""
    points = []
    for old, new in pairwise(_having(metrics, "time")):
        step, time = _begun(old, new)
        if new["time"] > time and new["step"] > step:
            points.append((new["step"], (new["time"] - time) / (new["step"] - step)))
    return Series("seconds", tuple(points))


def _begun(old: dict, new: dict) -> tuple[int, float]:
    """Step and time from which the steps up to the line `new` were taken: of the line before, or of a resume."""
    resumed = new.get("resumed")
    return (resumed["step"], resumed["time"]) if isinstance(resumed, dict) else (old["step"], old["time"])


def _having(metrics: Sequence[dict], *names: str) -> Iterable[dict]:
    """Lines in which each name is a finite number: TRL logs None where no row was judged, and NaN occurs."""
    for line in metrics:
        values = [line.get(name) for name in names]
        if all(isinstance(value, int | float) and abs(value) < float("inf") for value in values):
            yield line


def _some(*series: Series) -> tuple[Series, ...]:
    return tuple(one for one in series if one.points)
