"""`completions.html` of a run: one file, readable offline, with the answers, their pictures, their boxes."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from omnirl_core.evaluation.compare import FORMAT_REWARDS, Change, compare
from omnirl_core.evaluation.lines import by_row, read_lines
from omnirl_core.report.panels import panels, read_metrics
from omnirl_core.report.pictures import embed
from omnirl_core.report.sample import Group, evenly, sample_groups
from omnirl_core.report.svg import panel_svg
from omnirl_core.report.view import Line, View, readings

HERE = Path(__file__).parent
SECRETS = ("hub_token", "api_key", "secret", "password")
PARTS = (
    {
        "id": "rows",
        "title": "Held-out rows",
        "lead": "Each row's answer before and after training, with its score, its rewards and its boxes.",
    },
    {
        "id": "training",
        "title": "Training completions",
        "lead": "What the policy answered while it trained: the completions of one prompt stand together, "
        "best first, with the advantage that each got over its group.",
    },
)


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
    before, after = read_lines(folder / "before.jsonl"), read_lines(folder / "after.jsonl")
    groups, n_completions = sample_groups(folder / "completions.jsonl", most_completions)
    rows = _side_by_side(before, after)
    shown = evenly(rows, most_rows)
    pictures = embed(_image_paths(shown, groups), max_image_bytes)
    weights: dict[str, float] = next((line["weights"] for line in before + after if line.get("weights")), {})
    view = View(pictures, weights, readings(before + after), box_space)
    data = {
        "images": {picture.key: asdict(picture) for picture in pictures.values()},
        "rows": [view.row(old, new) for old, new in shown],
        "groups": [view.group(group) for group in groups],
    }
    metrics = read_metrics(folder)
    changes = _changes(before, after, format_rewards)
    run = _run_facts(folder)
    page = _page(
        name=folder.resolve().name,
        summary=_summary(run, metrics),
        tiles=_tiles(changes, metrics, n_completions),
        changes=changes,
        at=_axis(changes),
        panels=[(panel, Markup(panel_svg(panel))) for panel in panels(metrics)],
        run={title: json.dumps(facts, indent=2, ensure_ascii=False) for title, facts in run.items()},
        n_completions=n_completions,
        data=data,
    )
    path = Path(path) if path else folder / "completions.html"
    path.write_text(page, encoding="utf-8", errors="backslashreplace")  # text may hold half a surrogate pair
    return path


def _changes(before: list[Line], after: list[Line], format_rewards: Sequence[str]) -> list[Change]:
    """Compare the rows that both have: an evaluation of a run that is still going may not be whole."""
    old, new = by_row(before), by_row(after)
    both = [key for key in old if key in new]
    if not both:
        return []
    return compare([old[key] for key in both], [new[key] for key in both], format_rewards=format_rewards)


def _axis(changes: Sequence[Change]) -> Callable[[float], str]:
    """Place a change on the axis of the intervals: 200 units that hold 0 and the ends of all."""
    ends = [0.0, *(end for change in changes for end in (change.low, change.high))]
    low, reach = min(ends), (max(ends) - min(ends)) or 1.0
    return lambda value: f"{200 * (value - low) / reach:.1f}"


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
    tiles = []
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
    if metrics:
        times = [line["time"] for line in metrics if isinstance(line.get("time"), int | float)]
        note = f"{(times[-1] - times[0]) / 60:.1f} minutes" if len(times) > 1 else ""
        tiles.append({"name": "Steps", "value": str(metrics[-1]["step"]), "note": note, "mood": ""})
    if n_completions:
        name = "Completions written"
        tiles.append(
            {"name": name, "value": f"{n_completions:,}", "note": "see the last section", "mood": ""}
        )
    return tiles


def _side_by_side(before: list[Line], after: list[Line]) -> list[tuple[Line | None, Line | None]]:
    """Each row's line before and after. While a run is evaluated, one of them may not be there yet."""
    old, new = by_row(before), by_row(after)
    return [(old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new])]


def _image_paths(rows: Iterable[tuple[Line | None, Line | None]], groups: Iterable[Group]) -> list[str]:
    lines = [line for pair in rows for line in pair if line] + [group.lines[0] for group in groups]
    return [path for line in lines for path in line.get("images") or [] if isinstance(path, str)]


def _run_facts(folder: Path) -> dict[str, Any]:
    """What run.json says, {} where it is not there or half written; what looks like a secret is hidden."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return _without_secrets(facts) if isinstance(facts, dict) else {}


def _without_secrets(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(item, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item, name) for item in value]
    return "(hidden)" if value and name.lower().endswith(SECRETS) else value


def _page(data: dict[str, Any], **facts: Any) -> str:
    """Fill the template. It escapes text; data goes in as JSON that no HTML parser can end early."""
    script, style = (HERE / "page.js").read_text("utf-8"), (HERE / "page.css").read_text("utf-8")
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        script=Markup(script),
        script_hash=_hash(script),
        style=Markup(style),
        data=_island(data),
        data_rows=len(data["rows"]),
        parts=PARTS,
        **facts,
    )


def _hash(script: str) -> str:
    """Name the one script that the page's policy lets run: one that a completion smuggles in would not."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _island(data: dict[str, Any]) -> Markup:
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)  # ASCII: any character as \u....
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
