"""How hard each sample is for a policy: the share of its answers that are right, and the samples within bounds."""

import json
import os.path
from collections.abc import Sequence
from pathlib import Path

from omnirl_core.types import Line, Sample
from omnirl_tools.evaluation.lines import write_lines
from omnirl_tools.evaluation.measures import FORMAT_REWARDS, measures

BINS = 10
WIDTH = 40
"""Characters of the longest bar."""


def pass_rates(samples: Sequence[Sample], lines: Sequence[Line]) -> list[Line]:
    """A row of data for each distinct sample, with `pass_rate`, the mean accuracy of its answers, in [0, 1].

    Args:
        samples: each as often as it was answered, one after the other.
        lines: scored answers of them, as predictions.jsonl has them.
    """
    accuracy = measures(lines, FORMAT_REWARDS).get("accuracy") or (lambda line: line["score"])
    rates: list[tuple[Sample, list[float]]] = []
    for sample, line in zip(samples, lines, strict=True):
        if not rates or rates[-1][0] is not sample:
            rates.append((sample, []))
        value = accuracy(line)
        rates[-1][1].extend([] if value is None else [value])
    return [_row(sample, sum(values) / len(values), len(values)) for sample, values in rates if values]


def _row(sample: Sample, rate: float, n: int) -> Line:
    own = {name: value for name, value in sample.items() if name not in ("prompt", "row_id")}
    kept = {name: value for name, value in own.items() if value is not None and (name != "images" or value)}
    return {**kept, "pass_rate": round(rate, 6), "n_answers": n, "from": sample.get("row_id")}


def histogram(rates: Sequence[float], low: float, high: float) -> str:
    """Samples by pass rate, a line for each tenth; `*` marks bars with samples within the bounds.

    >>> print(histogram([0.0, 0.0, 0.5, 1.0], 0.1, 0.9).splitlines()[0])
      0.0 .. 0.1       2  ----------------------------------------
    """
    bins = [min(int(rate * BINS + 1e-9), BINS - 1) for rate in rates]
    kept = {i for i, rate in zip(bins, rates, strict=True) if low <= rate <= high}
    most = max(bins.count(i) for i in bins)
    lines = []
    for i in range(BINS):
        count = bins.count(i)
        bar = ("*" if i in kept else "-") * -(-count * WIDTH // most)
        lines.append(f"  {i / BINS:.1f} .. {(i + 1) / BINS:.1f}  {count:6}  {bar}".rstrip())
    return "\n".join(lines)


def write_mixture(rows: Sequence[Line], path: Path, curriculum: bool) -> list[Path]:
    """A YAML mixture of the rows, and the JSONL beside it that holds them."""
    data = path.with_suffix(".jsonl")
    folders = [os.path.dirname(image) for row in rows for image in row.get("images", ())]
    # the names are ours, whatever mapping a recipe has for the data that they were chosen from
    entry = [f"  - json_path: {json.dumps(data.name)}", "    columns: {}"]
    if folders:
        entry.append(f"    image_root: {json.dumps(os.path.commonpath(folders))}")
    order = ["order: curriculum  # by pass_rate, easy to hard, without a shuffle"] if curriculum else []
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(data, list(rows))
    path.write_text("\n".join([*order, "datasets:", *entry, ""]), encoding="utf-8")
    return [path, data]
