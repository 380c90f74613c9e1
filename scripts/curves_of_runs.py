"""How curves look in runs that go well and in runs that do not: docs/curves.md, its figure and its numbers.

python scripts/curves_of_runs.py --train    # trains the five runs on the CPU, about three minutes each, and draws
python scripts/curves_of_runs.py            # draws docs/pictures/curves_of_runs.png from docs/curves_of_runs.json

It prints the table of docs/curves.md.

Each run is the image_text demo with one change, which the figure names.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from omnirl_tools.report.figures import BLUE, GREY, ORANGE, RED, draw_curve, png, style
from omnirl_tools.report.panels import read_metrics

ROOT = Path(__file__).parents[1]
NUMBERS = ROOT / "docs" / "curves_of_runs.json"
FIGURE = ROOT / "docs" / "pictures" / "curves_of_runs.png"
STEPS = 80
EXACT = "  - {name: exact, weight: 1.0, tasks: [color, shape, count]}\n"
OVERLAP = "  - {name: overlap, weight: 1.0, tasks: [caption]}\n"


class Run(NamedTuple):
    """One row of the figure."""

    title: str
    settings: tuple[str, ...] = ()
    """What is put on the command line behind the demo's YAML."""
    rewards: str = ""
    """A rewards.yaml in place of the demo's."""


RUNS = {
    "good": Run("A good run"),
    "learning_rate": Run("Learning rate 30 times too high", ("--learning_rate", "3e-3")),
    "cut": Run("Completions cut at 12 tokens", ("--max_completion_length", "12")),
    "form": Run(
        "Form weighs 20 times as much as the answer",
        rewards="rewards:\n  - {name: think_format, weight: 2.0}\n"
        + EXACT.replace("1.0", "0.1")
        + OVERLAP.replace("1.0", "0.1"),
    ),
    "length": Run(
        "Length is paid, right or wrong",
        rewards="rewards:\n  - {name: think_format, weight: 0.2}\n  - {name: length_band, weight: 2.0, "
        + "settings: {low: 36, high: 46}}\n" + EXACT + OVERLAP,
    ),
}  # fmt: skip
SERIES = {
    "reward": "reward",
    "exact": "rewards/exact/mean",
    "form": "rewards/think_format/mean",
    "cut": "completions/clipped_ratio",
    "constant": "frac_reward_zero_std",
    "length": "completions/mean_length",
    "entropy": "entropy",
}
"""Name in the JSON -> name in metrics.jsonl."""


def train(name: str, folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Train one of RUNS on the CPU and return the series of its log."""
    run = RUNS[name]
    settings = list(run.settings)
    if run.rewards:
        (folder / f"{name}.yaml").write_text(run.rewards)
        settings += ["--rewards", str(folder / f"{name}.yaml")]
    output = folder / name
    command = [sys.executable, "recipes/grpo.py", "--config", "recipes/image_text/demo.yaml", "--output_dir", output]
    command += ["--max_steps", STEPS, "--logging_steps", 1, "--eval_rows", 8, *settings]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE_")}
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, env={"OMP_NUM_THREADS": "1", **kept})
    lines = [line for line in read_metrics(output) if "reward" in line]
    return {
        key: [(line["step"], round(float(line[logged]), 4)) for line in lines if line.get(logged) is not None]
        for key, logged in SERIES.items()
    }


def draw(runs: dict[str, dict[str, list[tuple[int, float]]]]) -> Figure:
    """One row a run: what is earned, whether groups differ, and how long and how sure the completions are."""
    style()
    figure = Figure(figsize=(10.5, 2.35 * len(runs)), layout="constrained")
    grid = figure.subplots(len(runs), 3, sharex=True)
    for row, (name, series) in zip(grid, runs.items(), strict=True):
        _draw_row(row, series, RUNS[name].title)
    for axes in grid[-1]:
        axes.set_xlabel("step")
    for axes, place in zip(grid[0], ("lower right", "upper left", "upper left"), strict=True):
        axes.legend(loc=place, fontsize=7.5)
    return figure


def _draw_row(row: list[Axes], series: dict[str, list[tuple[int, float]]], title: str) -> None:
    rewards, groups, length = row
    rewards.set_title(title)
    for key, label, color in (("exact", "exact answers", BLUE), ("form", "think_format", ORANGE)):
        draw_curve(rewards, series[key], label, color)
    for key, label, color in (("constant", "groups without signal", GREY), ("cut", "completions cut", RED)):
        draw_curve(groups, series[key], label, color)
    for axes in (rewards, groups):
        axes.set_ylim(-0.04, 1.04)
    draw_curve(length, series["length"], "tokens of a completion", BLUE)
    length.set_ylim(0, 50)


def table(runs: dict[str, dict[str, list[tuple[int, float]]]]) -> str:
    """Means over the first and the last ten steps of each run, as Markdown."""
    lines = ["| run | reward | exact answers | think_format | groups without signal | completions cut | tokens |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, series in runs.items():
        keys = ("reward", "exact", "form", "constant", "cut", "length")
        cells = [_from_to(series[key], 1 if key == "length" else 2) for key in keys]
        lines.append(f"| {RUNS[name].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _from_to(points: list[tuple[int, float]], digits: int) -> str:
    first, last = ([value for step, value in points if step in steps] for steps in (range(11), range(STEPS - 9, 999)))
    return " to ".join(f"{sum(values) / len(values):.{digits}f}" for values in (first, last))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="train the runs; without it the kept numbers are drawn")
    parser.add_argument("--only", nargs="*", choices=RUNS, help="train these; the others' numbers are kept")
    args = parser.parse_args()
    kept = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}
    if args.train:
        with tempfile.TemporaryDirectory() as folder:
            for name in args.only or RUNS:
                kept[name] = train(name, Path(folder))
                NUMBERS.write_text(json.dumps({name: kept[name] for name in RUNS if name in kept}) + "\n")
    FIGURE.write_bytes(png(draw(kept)))
    print(table(kept))


if __name__ == "__main__":
    main()
