"""What an evaluation comes to: each measure with its interval, by modality and task; overlap; what went wrong."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from omnirl_core.rewards import Reward
from omnirl_core.text import answer_text
from omnirl_core.types import JsonObject, Settings
from omnirl_tools.evaluation.intervals import bootstrap_interval, wilson_interval
from omnirl_tools.evaluation.layout import aligned
from omnirl_tools.evaluation.measures import FORMAT_REWARDS, Line, groups, measures
from omnirl_tools.evaluation.overlap import overlap_figures

OVERLAP_SCORERS = ("bleu", "rouge", "meteor", "overlap")


@dataclass(frozen=True)
class Figure:
    """Mean of one measure over one group of rows; only rows that it judges are counted."""

    measure: str
    """`score`, `accuracy`, or a reward's name."""
    kind: str
    """`all`, `modality` or `task`."""
    group: str
    n: int
    mean: float
    low: float
    """Ends of the 95 % interval: Wilson's where every value is 0 or 1, otherwise bootstrap over rows."""
    high: float


def figures(lines: Sequence[Line], format_rewards: Sequence[str] = FORMAT_REWARDS) -> list[Figure]:
    """Average each measure over all lines and over each modality and task, in that order."""
    found = []
    for name, measure in measures(lines, format_rewards).items():
        values = np.array([np.nan if (value := measure(line)) is None else value for line in lines], float)
        for kind, group, members in groups(lines):
            judged = values[members & ~np.isnan(values)]
            if len(judged):
                found.append(Figure(name, kind, group, len(judged), float(judged.mean()), *_interval(judged)))
    return found


def _interval(values: np.ndarray) -> tuple[float, float]:
    if np.isin(values, (0.0, 1.0)).all():
        return wilson_interval(int(values.sum()), len(values))
    return bootstrap_interval(values)


def metrics(lines: Sequence[Line], found: Sequence[Figure]) -> JsonObject:
    """Return what metrics.json holds about the lines of an evaluation and their figures."""
    tokens = [line["n_tokens"] for line in lines if line["n_tokens"]]
    scores: dict[str, Any] = {}
    for figure in found:
        part = {key: value for key, value in asdict(figure).items() if key in ("n", "mean", "low", "high")}
        scores.setdefault(figure.measure, {}).setdefault(figure.kind, {})[figure.group] = part
    return {
        "n": len(lines),
        "n_without_score": sum(line["score"] is None for line in lines),
        "parse_failure_rate": _share([answer_text(line["completion"]) is None for line in lines]),
        "clipped_rate": _share([line["clipped"] for line in lines]),
        "mean_tokens": sum(tokens) / len(tokens) if tokens else None,
        "scores": scores,
    }


def add_overlap(lines: Sequence[Line], rewards: Sequence[Reward]) -> JsonObject | None:
    """Measure overlap on the lines that an overlap reward judges, write it into them, and return the means.

    None where no reward is about overlap. Corpus BLEU is sacrebleu's.
    """
    names = [reward.__name__ for reward in rewards if getattr(reward.scorer, "__name__", "") in OVERLAP_SCORERS]
    judged = [line for line in lines if any(line["rewards"].get(name) is not None for name in names)]
    if not judged:
        return None
    whole = overlap_figures(judged)
    for line, sample in zip(judged, whole.samples, strict=True):
        line["overlap"] = sample
    tasks = {task: [line for line in judged if line["task"] == task] for task in {x["task"] for x in judged}}
    parts = {task or "": _overlap_facts(overlap_figures(part)) for task, part in sorted(tasks.items(), key=str)}
    return _overlap_facts(whole) | ({"task": parts} if len(parts) > 1 else {})


def _overlap_facts(found: Any) -> dict[str, Any]:
    facts = asdict(found)
    facts.pop("samples")
    return facts


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0


def figure_table(found: Sequence[Figure], detailed: Sequence[str] = ("score", "accuracy")) -> str:
    """Lay figures out as plain text; `detailed` measures are shown for each modality and task too.

    >>> print(figure_table([Figure("score", "all", "all", 8, 0.75, 0.4, 0.9)]))
           rows   mean   95 % interval
    -----  ----  -----  --------------
    score     8  0.750  0.400 .. 0.900
    """
    lines: list[Sequence[str]] = [("", "rows", "mean", "95 % interval")]
    for figure in found:
        if figure.kind == "all" or figure.measure in detailed:
            name = figure.measure if figure.kind == "all" else f"  {figure.kind} {figure.group}"
            low, high = f"{figure.low:.3f}", f"{figure.high:.3f}"
            lines.append((name, str(figure.n), f"{figure.mean:.3f}", f"{low} .. {high}"))
    return aligned(lines)


def overlap_row(facts: Settings) -> str:
    """One line about overlap for a terminal.

    >>> overlap_row({"n": 4, "means": {"bleu": 0.5, "rougeL": 0.25}, "corpus_bleu": 31.4})
    'overlap of 4 texts, means: bleu 0.500, rougeL 0.250; corpus BLEU 31.4'
    """
    means = ", ".join(f"{name} {mean:.3f}" for name, mean in facts["means"].items())
    corpus = "" if facts["corpus_bleu"] is None else f"; corpus BLEU {facts['corpus_bleu']:.1f}"
    return f"overlap of {facts['n']} texts, means: {means}{corpus}"
