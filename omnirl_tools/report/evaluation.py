"""`completions.html` of one evaluation: its figures, and each row with its answer, images and boxes."""

import json
from pathlib import Path
from typing import Any

from omnirl_tools.evaluation.lines import read_lines
from omnirl_tools.evaluation.metrics import Figure, figures
from omnirl_tools.report.completions import page_data
from omnirl_tools.report.page import write_page
from omnirl_tools.report.sample import evenly


def write_evaluation(
    folder: str | Path,
    path: str | Path | None = None,
    *,
    most_rows: int = 2000,
    max_image_bytes: int = 16_000_000,
) -> Path:
    """Write the page of a folder with `predictions.jsonl` and return its path: `completions.html` in it."""
    folder = Path(folder)
    lines = read_lines(folder / "predictions.jsonl")
    rows = [(None, line) for line in evenly(lines, most_rows)]
    found = figures(lines)
    facts = _facts(folder)
    return write_page(
        Path(path) if path else folder / "completions.html",
        folder.resolve().name,
        page_data(rows, [], ("answer",), max_image_bytes, None),
        summary=[str(facts[name]) for name in ("model", "completions", "protocol", "data") if facts.get(name)],
        tiles=_tiles(found, facts),
        kind="Evaluation",
        figures=found,
        run={"metrics.json": json.dumps(facts, indent=2, ensure_ascii=False)} if facts else {},
    )


def _tiles(found: list[Figure], facts: dict[str, Any]) -> list[dict[str, str]]:
    tiles = []
    for figure in found:
        if figure.kind == "all" and figure.measure in ("score", "accuracy"):
            name = f"{figure.measure.capitalize()}, {figure.n} rows"
            note = f"{figure.low:.3f} … {figure.high:.3f}"
            tiles.append({"name": name, "value": f"{figure.mean:.3f}", "note": note, "mood": ""})
    for name, title, note in (
        ("parse_failure_rate", "Answers not read", "no closed <answer>, or no box under a protocol"),
        ("clipped_rate", "Clipped", f"hit the limit of {facts.get('max_new_tokens')} tokens"),
    ):
        if isinstance(facts.get(name), float):
            tiles.append({"name": title, "value": f"{facts[name]:.1%}", "note": note, "mood": ""})
    return tiles


def _facts(folder: Path) -> dict[str, Any]:
    """What metrics.json says, {} where it is not there."""
    try:
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
