"""The numbers, figures and tables of docs/reward_study.md, from the runs of scripts/reward_study.py."""

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from omnirl_core.data import load_records  # noqa: E402
from omnirl_core.rewards.overlap.captions import document_frequencies  # noqa: E402
from omnirl_tools.evaluation.intervals import bootstrap_interval  # noqa: E402
from omnirl_tools.report.figures import BLUE, COLORS, GREY, INK, ORANGE, draw_curve, png, style  # noqa: E402
from scripts.reward_study_judges import MEASURES, judge  # noqa: E402

Kept = dict[str, Any]
PAGE = ROOT / "docs" / "reward_study.md"
NUMBERS = ROOT / "docs" / "reward_study.json"
FIGURE_FOLDER = ROOT / "docs" / "pictures"
BLOCK = re.compile(r"(<!-- made by scripts/reward_study\.py: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
LABELS = {
    "before": "before training", "exact": "exact", "bleu": "BLEU", "rouge": "ROUGE-L", "meteor": "METEOR",
    "original": "original", "unified": "unified", "reference_probability": "reference probability",
}  # fmt: skip
KINDS = {"caption": "captions", "color": "answers", "text": "answers"}
"""Task of the drawn world -> what it is counted with; the rest is data to text."""
FACTS = ("right", "named", "false", "echo", "words", "form")
OVERLAP = ("exact", "bleu", "rouge", "meteor", "original", "unified", "chrf", "cider")
BASE = "shapes/unified/0"
"""The run that the training skills change."""
SKILL_LABELS = {
    "length_500": "length reward, weight 500", "length_small": "length reward, weight 0.2",
    "format_none": "format, weight 0", "format_heavy": "format, weight 5", "cut_8": "cut at 8 tokens",
}  # fmt: skip
EVERY = 5
"""Steps that a kept point of a curve is the mean of."""


# --- from the folder of runs to the numbers that are kept ---


def gather(folder: Path) -> Kept:
    """Judge the held-out answers of every finished run, and keep what the page needs."""
    found = {run["run"]: run for run in (json.loads(file.read_text()) for file in sorted(folder.glob("*.json")))}
    return {name: numbers_of(run, frequencies(folder, name)) for name, run in sorted(found.items())}


def frequencies(folder: Path, name: str) -> str:
    """CIDEr's file for the world of a run, made of its training samples once."""
    world = "facts" if name.startswith("facts") else "shapes"
    data = next((folder / "data").glob(f"{world}_*"))
    file = data / "frequencies.json"
    if not file.exists():
        counted = document_frequencies(record.solution for record in load_records(data / "train.json"))
        file.write_text(json.dumps(counted, ensure_ascii=False))
    return str(file)


def numbers_of(run: Mapping[str, Any], known: str) -> Kept:
    """Means by kind of question, which samples are right, and the curves, thinned."""
    tags = not run["run"].startswith("facts")
    kinds: dict[str, list[dict[str, float]]] = {}
    for line in run["answers"]:
        kinds.setdefault(KINDS.get(line["task"], "facts"), []).append(judge(line, known, tags))
    tasks = list(dict.fromkeys(line["task"] for line in run["answers"]))
    return {
        "settings": run["settings"],
        "minutes": run["minutes"],
        "cpu_minutes": run["cpu_minutes"],
        "scores": {
            kind: {name: round(statistics.fmean(one[name] for one in judged), 4) for name in MEASURES}
            for kind, judged in kinds.items()
        },
        "right": {kind: "".join(str(int(one["right"])) for one in judged) for kind, judged in kinds.items()},
        "curves": {key: thinned(points) for key, points in run["curves"].items()},
        "first": {task: next(one for one in run["answers"] if one["task"] == task)["completion"] for task in tasks},
    }


def thinned(points: Sequence[Sequence[float]]) -> list[list[float]]:
    """Means of `EVERY` steps, each at its last one."""
    parts = [points[k : k + EVERY] for k in range(0, len(points), EVERY)]
    return [[part[-1][0], round(statistics.fmean(value for _, value in part), 4)] for part in parts]


# --- tables ---


def seeds_of(kept: Kept, world: str, reward: str) -> list[Kept]:
    """The runs of one reward, by seed."""
    return [kept[name] for name in sorted(kept) if name.rpartition("/")[0] == f"{world}/{reward}"]


def rewards_of(kept: Kept, world: str, trained: bool = False) -> list[str]:
    """The rewards that a world has runs of, in the page's order."""
    return [name for name in LABELS if seeds_of(kept, world, name) and not (trained and name == "before")]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The mean, and the standard deviation over seeds where there are several."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ±{statistics.stdev(values):.{digits}f}"


def measured(kept: Kept, world: str, kind: str, measures: Iterable[str]) -> str:
    """One row a reward, one column a measure."""
    measures = list(measures)
    lines = [f"| trained on | {' | '.join(MEASURES[one] for one in measures)} |", "|---" * (len(measures) + 1) + "|"]
    for reward in rewards_of(kept, world):
        runs = seeds_of(kept, world, reward)
        cells = [spread([run["scores"][kind][one] for run in runs], 1 if one == "words" else 2) for one in measures]
        lines.append(f"| {LABELS[reward]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def differences(kept: Kept, world: str, reward: str, kind: str, against: str = "unified") -> np.ndarray:
    """Of facts right to another reward's, `(seeds, samples)`, in -1, 0, 1: the same samples and the same seeds."""
    ours, theirs = (
        np.array([[int(one) for one in run["right"][kind]] for run in seeds_of(kept, world, name)])
        for name in (reward, against)
    )
    return ours - theirs


def paired(kept: Kept, world: str = "shapes") -> str:
    """Each reward against the unified one: the mean difference, its interval over samples, and each seed's."""
    lines = ["| trained on | captions: facts right | by seed | answers: right | by seed |", "|---|---|---|---|---|"]
    for reward in rewards_of(kept, world, trained=True):
        if reward != "unified":
            cells = [cell for kind in ("captions", "answers") for cell in _difference(kept, world, reward, kind)]
            lines.append(f"| {LABELS[reward]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _difference(kept: Kept, world: str, reward: str, kind: str) -> tuple[str, str]:
    found = differences(kept, world, reward, kind)
    low, high = bootstrap_interval(found.mean(axis=0))
    return f"{found.mean():+.2f} ({low:+.2f} .. {high:+.2f})", ", ".join(f"{one:+.2f}" for one in found.mean(axis=1))


def examples(kept: Kept, world: str, tasks: Sequence[str]) -> str:
    """What the first seed's policies say to the first held-out sample of each task."""
    lines = [f"| trained on | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for reward in rewards_of(kept, world):
        said = seeds_of(kept, world, reward)[0]["first"]
        cells = (f"`{' '.join(said[task].split()).replace('|', '/')}`" for task in tasks)
        lines.append(f"| {LABELS[reward]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def skills(kept: Kept) -> str:
    """The run that is changed and the changed ones: facts right, form and length, early and late."""
    lines = ["| run | facts right | form | tokens | completions cut |", "|---|---|---|---|---|"]
    for name in (BASE, *(f"skills/{one}/0" for one in SKILL_LABELS)):
        label = "the unified reward as above" if name == BASE else SKILL_LABELS[name.split("/")[1]]
        curves = kept[name]["curves"]
        cells = [_from_to(curves[key], 1 if key == "tokens" else 2) for key in ("right", "form", "tokens", "cut")]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _from_to(points: Sequence[Sequence[float]], digits: int) -> str:
    first, last = (statistics.fmean(value for _, value in part) for part in (points[:2], points[-2:]))
    return f"{first:.{digits}f} to {last:.{digits}f}"


def cost(kept: Kept) -> str:
    """What was run, and how much of it."""
    lines = ["| world | runs | steps | completions a step | CPU minutes a run | all |", "|---|---|---|---|---|---|"]
    for world in dict.fromkeys(name.split("/")[0] for name in kept):
        runs = [run for name, run in kept.items() if name.startswith(f"{world}/") and "/before/" not in name]
        minutes = [run["cpu_minutes"] for run in runs]
        settings = runs[0]["settings"]
        lines.append(
            f"| {world} | {len(runs)} | {settings['max_steps']} | {settings['per_device_train_batch_size']} "
            f"| {statistics.fmean(minutes):.1f} | {sum(minutes):.0f} |"
        )
    return "\n".join(lines) + "\n"


BLOCKS: dict[str, Callable[[Kept], str]] = {
    "caption_facts": lambda kept: measured(kept, "shapes", "captions", FACTS),
    "caption_overlap": lambda kept: measured(kept, "shapes", "captions", OVERLAP),
    "answer_facts": lambda kept: measured(kept, "shapes", "answers", ("right", "echo", "words", "form")),
    "answer_overlap": lambda kept: measured(kept, "shapes", "answers", OVERLAP[1:]),
    "paired": paired,
    "examples": lambda kept: examples(kept, "shapes", ("caption", "text")),
    "facts_examples": lambda kept: examples(kept, "facts", ("restaurant", "weather")),
    "facts_facts": lambda kept: measured(kept, "facts", "facts", ("right", "false", "echo", "words")),
    "facts_overlap": lambda kept: measured(kept, "facts", "facts", OVERLAP),
    "skills": skills,
    "cost": cost,
}


def render(page: str, kept: Kept) -> str:
    """The page with each of its blocks written anew."""
    return BLOCK.sub(lambda match: match[1] + BLOCKS[match[2]](kept) + match[3], page)


# --- figures ---


def figure_facts(kept: Kept) -> Figure:
    """Facts right after training: a dot a seed, a bar for the mean."""
    style()
    rewards = rewards_of(kept, "shapes")
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    shown = (
        ("captions", "right", "Captions: shapes and relation right"),
        ("captions", "false", "Captions that say something false"),
        ("answers", "right", "Short answers right"),
    )
    for axes, (kind, measure, title) in zip(panels, shown, strict=True):
        for place, reward in enumerate(rewards):
            values = [run["scores"][kind][measure] for run in seeds_of(kept, "shapes", reward)]
            color = GREY if reward == "before" else ORANGE if measure == "false" else BLUE
            axes.barh(place, statistics.fmean(values), height=0.62, color=color, alpha=0.35)
            axes.plot(values, [place] * len(values), "o", color=color, markersize=4)
        axes.set_title(title, fontsize=9.5)
        axes.set_xlim(0, 1)
        axes.grid(axis="x")
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(range(len(rewards)), [LABELS[one] for one in rewards])
    panels[0].tick_params(axis="y", labelcolor=INK)
    panels[0].invert_yaxis()
    return figure


def mean_curve(runs: Sequence[Kept], key: str) -> list[tuple[float, float]]:
    """The mean of a series over seeds."""
    series = [run["curves"][key] for run in runs]
    return [(points[0][0], statistics.fmean(value for _, value in points)) for points in zip(*series, strict=True)]


def figure_paid(kept: Kept) -> Figure:
    """A panel a reward: what it pays, and what is right, over the steps."""
    style()
    rewards = rewards_of(kept, "shapes", trained=True)
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    panels = figure.subplots(2, 4, sharex=True, sharey=True).flatten()
    for axes, reward in zip(panels, rewards, strict=False):
        runs = seeds_of(kept, "shapes", reward)
        draw_curve(axes, mean_curve(runs, "judge"), "the reward itself", ORANGE)
        draw_curve(axes, mean_curve(runs, "right"), "facts right", BLUE)
        draw_curve(axes, mean_curve(runs, "constant"), "groups without signal", GREY)
        axes.set_title(LABELS[reward], fontsize=9.5)
        axes.set_ylim(0, 1)
    handles, labels = panels[0].get_legend_handles_labels()
    panels[-1].axis("off")
    panels[-1].legend(handles, labels, loc="center left")
    for axes in panels[3:7]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("step")
    return figure


def figure_skills(kept: Kept) -> Figure:
    """A row a skill."""
    style()
    figure = Figure(figsize=(9.6, 6.6), layout="constrained")
    rows = figure.subplots(3, 2, sharex=True)
    shown = (
        (("length_500", "length_small"), ("right", "One scale: facts right"), ("tokens", "Tokens of a completion")),
        (("format_none", "format_heavy"), ("form", "Format: completions in form"), ("right", "Facts right")),
        (("cut_8",), ("form", "Room: completions in form"), ("cut", "Completions cut")),
    )
    usual = ("no length reward", "format, weight 0.2", "cut at 48 tokens")
    for row, base, (names, *series) in zip(rows, usual, shown, strict=True):
        for axes, (key, title) in zip(row, series, strict=True):
            _compare(axes, kept, base, names, key)
            axes.set_title(title, fontsize=9.5)
        row[0].legend(loc="best", fontsize=8)
    for axes in rows[-1]:
        axes.set_xlabel("step")
    return figure


def _compare(axes: Axes, kept: Kept, usual: str, names: Sequence[str], key: str) -> None:
    draw_curve(axes, kept[BASE]["curves"][key], usual, GREY)
    for name, color in zip(names, COLORS, strict=False):
        draw_curve(axes, kept[f"skills/{name}/0"]["curves"][key], SKILL_LABELS[name], color)
    if key != "tokens":
        axes.set_ylim(-0.03, 1.03)
    else:
        axes.set_ylim(bottom=0)


FIGURES: dict[str, Callable[[Kept], Figure]] = {
    "reward_study_facts": figure_facts,
    "reward_study_paid": figure_paid,
    "reward_study_skills": figure_skills,
}


def read_kept() -> Kept:
    return json.loads(NUMBERS.read_text(encoding="utf-8"))


def write_page(folder: Path | None) -> None:
    """Keep the numbers of the folder's runs, where one is given; then write figures and tables."""
    if folder is not None:
        lines = (f"{json.dumps(name)}: {json.dumps(run)}" for name, run in gather(folder).items())
        NUMBERS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    kept = read_kept()
    for name, draw in FIGURES.items():
        (FIGURE_FOLDER / f"{name}.png").write_bytes(png(draw(kept)))
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")
