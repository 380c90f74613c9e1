"""`completions.html` of a run: one file, readable offline, with the answers, their images, their boxes."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omnirl_core.types import JsonObject
from omnirl_tools.evaluation.compare import Change, compare, pair_lines
from omnirl_tools.evaluation.lines import by_row, read_lines
from omnirl_tools.evaluation.measures import FORMAT_REWARDS
from omnirl_tools.report.images import embed
from omnirl_tools.report.page import write_page
from omnirl_tools.report.panels import panels, read_metrics, training_seconds
from omnirl_tools.report.run_file import judging_weights, read_run_file, run_weights
from omnirl_tools.report.sample import Group, evenly, sample_groups
from omnirl_tools.report.svg import curve_data
from omnirl_tools.report.view import Line, View, readings


def write_completions(
    run_folder: str | Path,
    path: str | Path | None = None,
    *,
    most_completions: int = 2000,
    most_rows: int = 500,
    max_image_bytes: int = 16_000_000,
    box_space: str | None = None,
    format_rewards: Sequence[str] = FORMAT_REWARDS,
) -> Path:
    """Write the run's report and return its path: `completions.html` in its folder.

    Reads what is there of metrics.jsonl, completions.jsonl, before.jsonl, after.jsonl and run.json, so it
    works on a run that is still going or was killed. `box_space` is the coordinate space of predicted boxes
    where the held-out lines do not tell it.
    """
    folder = Path(run_folder)
    run = read_run_file(folder)
    before, after = read_lines(folder / "before.jsonl"), read_lines(folder / "after.jsonl")
    groups, n_completions = sample_groups(folder / "completions.jsonl", most_completions)
    rows = evenly(_side_by_side(before, after), most_rows)
    changes = _changes(before, after, format_rewards)
    metrics = read_metrics(folder)
    curves = panels(metrics, judging_weights(folder))
    return write_page(
        Path(path) if path else folder / "completions.html",
        folder.resolve().name,
        page_data(rows, groups, ("before", "after"), max_image_bytes, box_space, run) | curve_data(curves),
        summary=_summary(run, metrics),
        tiles=_tiles(changes, metrics, n_completions),
        changes=changes,
        panels=curves,
        run={title: json.dumps(facts, indent=2, ensure_ascii=False) for title, facts in run.items()},
        n_completions=n_completions,
    )


def write_comparison(
    first: str | Path,
    second: str | Path,
    path: str | Path,
    *,
    names: tuple[str, str] = ("first", "second"),
    most_rows: int = 500,
    max_image_bytes: int = 16_000_000,
    format_rewards: Sequence[str] = FORMAT_REWARDS,
) -> Path:
    """Write a page that sets two evaluations of the same rows side by side, and return its path.

    `first` and `second` are files of lines (before.jsonl, predictions.jsonl). The rows that changed most come
    first: the wins and the losses, with their images.
    """
    old, new = read_lines(first), read_lines(second)
    changes = compare(old, new, format_rewards=format_rewards)
    pairs = sorted(pair_lines(old, new), key=_change_of_score, reverse=True)[:most_rows]
    return write_page(
        Path(path),
        f"{names[0]} and {names[1]}",
        page_data(pairs, [], names, max_image_bytes, None),
        kind="Comparison",
        summary=[str(first), str(second)],
        tiles=_tiles(changes, [], 0),
        changes=changes,
    )


def _change_of_score(pair: tuple[Line, Line]) -> float:
    old, new = (line.get("score") for line in pair)
    return abs(new - old) if old is not None and new is not None else 0.0


def page_data(
    rows: Sequence[tuple[Line | None, Line | None]],
    groups: Sequence[Group],
    names: Sequence[str],
    max_image_bytes: int,
    box_space: str | None,
    run: Mapping[str, object] = MappingProxyType({}),
) -> JsonObject:
    """What the page's script shows; with one name, only the second line of each pair.

    Lines say how they are weighted and how their boxes are read; where they do not, others of the run do, and `run`,
    what run.json says.
    """
    lines = [line for pair in rows for line in pair if line] + [line for group in groups for line in group.lines]
    images = embed(_image_rows(rows, groups), max_image_bytes)
    weights: dict[str, float] = next((line["weights"] for line in lines if line.get("weights")), {})
    if not weights and lines:
        weights = run_weights(run, lines[0].get("rewards") or {})
    view = View(images, weights, readings(lines), box_space)
    return {
        "names": names,
        "images": {image.key: asdict(image) for image in images.values()},
        "rows": _anchored([view.row(old, new) for old, new in rows]),
        "groups": _anchored([view.group(group) for group in groups]),
    }


def _anchored(shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give each sample the name of its link: what it is called in the data, the step before it, counted if needed."""
    seen: Counter[str] = Counter()
    for one in shown:
        place = f"{one['phase']}-{one['step']}" if "step" in one else "row"
        name = re.sub(r"[^\w.-]+", "-", "-".join([place, *one["id"].rsplit("/", 2)[-2:]]))
        seen[name] += 1
        one["anchor"] = name if seen[name] == 1 else f"{name}-{seen[name]}"
    return shown


def _changes(before: list[Line], after: list[Line], format_rewards: Sequence[str]) -> list[Change]:
    """Compare the rows that both have: an evaluation of a run that is still going may not be whole."""
    old, new = by_row(before), by_row(after)
    both = [key for key in old if key in new]
    if not both:
        return []
    return compare([old[key] for key in both], [new[key] for key in both], format_rewards=format_rewards)


def _summary(run: dict[str, Any], metrics: list[Line]) -> list[str]:
    config = run.get("config")
    model = config.get("model_name_or_path") if isinstance(config, dict) else None
    parts = [str(model)] if model else []
    if started := run.get("started"):
        parts.append(f"started {started}")
    if metrics:
        parts.append(f"last logged step {metrics[-1]['step']}")
    return parts


def _tiles(changes: Sequence[Change], metrics: list[Line], n_completions: int) -> list[dict[str, str]]:
    """The figures that a reader wants first."""
    tiles: list[dict[str, str]] = []
    for change in changes:
        if change.kind == "all" and change.measure in ("score", "accuracy"):
            interval = f"{change.low:+.3f} … {change.high:+.3f}"
            tiles.append(
                {
                    "name": f"Held-out {change.measure}, {change.n} rows",
                    "value": f"{change.before:.3f} → {change.after:.3f}",
                    "note": f"{change.difference:+.3f}  ({interval})",
                    "mood": change.verdict,
                }
            )
    rewards = [(line["step"], line["reward"]) for line in metrics if isinstance(line.get("reward"), int | float)]
    if rewards and not tiles:
        (first, old), (last, new) = rewards[0], rewards[-1]
        note = f"log lines of steps {first} and {last}"
        tiles.append({"name": "Training reward", "value": f"{old:.3f} → {new:.3f}", "note": note, "mood": ""})
    if metrics:
        seconds = training_seconds(metrics)
        note = f"{seconds / 60:.1f} minutes" if seconds else ""
        tiles.append({"name": "Steps", "value": str(metrics[-1]["step"]), "note": note, "mood": ""})
    if n_completions:
        tiles.append({"name": "Completions written", "value": f"{n_completions:,}", "note": "", "mood": ""})
        tiles[-1] |= {"note": "see Training completions", "link": "#training"}
    return tiles


def _side_by_side(before: list[Line], after: list[Line]) -> list[tuple[Line | None, Line | None]]:
    """Each row's line before and after. While a run is evaluated, one of them may not be there yet."""
    old, new = by_row(before), by_row(after)
    return [(old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new])]


def _image_rows(rows: Iterable[tuple[Line | None, Line | None]], groups: Iterable[Group]) -> dict[str, str | None]:
    """Path of each image, with a row that shows it."""
    lines = [line for pair in rows for line in pair if line] + [group.lines[0] for group in groups]
    return {
        path: line.get("row_id")
        for line in reversed(lines)
        for path in line.get("images") or []
        if isinstance(path, str)
    }
