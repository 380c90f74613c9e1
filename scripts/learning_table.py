"""What the recipes learned, from the folders of real runs into the documents.

    python scripts/learning_table.py outputs/text_only_demo outputs/rec_demo   # keeps their results, writes the tables
    python scripts/learning_table.py                                           # writes the tables again

A run's numbers are kept as `recipes/results/<name of its folder>.json`, its curves as
`docs/pictures/<name>_curves.png`. A run that stopped before its end is kept as such. From these files come the table of
recipes/README.md and the blocks of the recipes' READMEs, each between a line
 `<!-- results: NAME -->` and a line `<!-- end of results -->`.
"""

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnirl_tools.evaluation.compare import Change, table
from omnirl_tools.report.result import read_changes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "recipes" / "results"
FIGURES = ROOT / "docs" / "pictures"
KEPT_CONFIG = ("model_name_or_path", "max_steps", "learning_rate", "seed")
HEAD = (
    "| run | n | score before → after | 95 % interval | accuracy before → after | 95 % interval | CPU minutes "
    "| peak memory |\n|---|---|---|---|---|---|---|---|"
)
BLOCK = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def keep(folder: Path) -> None:
    """Copy what a run came to out of its folder; a run without result.json stopped before its end."""
    run = json.loads((folder / "run.json").read_text())
    config = {name: run["config"][name] for name in KEPT_CONFIG if name in run["config"]}
    kept: dict[str, Any] = {"started": run["started"], "config": config, "versions": run["versions"]}
    finished = folder / "result.json"
    kept |= json.loads(finished.read_text()) if finished.exists() else {"stopped": True}
    (RESULTS / f"{folder.name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    if (folder / "curves.png").exists():
        shutil.copy(folder / "curves.png", FIGURES / f"{folder.name}_curves.png")


def load() -> dict[str, dict[str, Any]]:
    """Every kept result by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def learning_table(results: dict[str, dict[str, Any]]) -> str:
    """One row a run, those that did not learn, and those that stopped, among them."""
    return "\n".join([HEAD, *(_row(name, result) for name, result in results.items())]) + "\n"


def _row(name: str, result: dict[str, Any]) -> str:
    if result.get("stopped"):
        return f"| {name} | | stopped before its end | | | | | |"
    found = {change.measure: change for change in read_changes(result) if change.kind == "all"}
    score, accuracy = found["score"], found["accuracy"]
    cells = [
        name,
        str(score.n),
        *_cells(score),
        *_cells(accuracy),
        f"{result.get('cpu_minutes', result['minutes']):.1f}",
        _memory(result),
    ]
    return f"| {' | '.join(cells)} |"


def _cells(change: Change) -> list[str]:
    verdict = {"up": "", "down": " (lower)", "unsure": " (no change shown)"}[change.verdict]
    return [
        f"{change.before:.3f} → {change.after:.3f}",
        f"{change.low:+.3f} .. {change.high:+.3f}{verdict}",
    ]


def _memory(result: dict[str, Any]) -> str:
    return ", ".join(
        f"{size:.1f} GiB" + (f" {place}" if place != "host" else "")
        for place, size in result["peak_memory_gib"].items()
    )


def run_block(result: dict[str, Any] | None, tasks: bool = True) -> str:
    """The facts of one run and its whole table, for the README of its recipe; lines of single tasks where wanted."""
    if result is None:
        return "Not run yet.\n"
    if result.get("stopped"):
        return "The run stopped before its end.\n"
    versions = ", ".join(f"{name} {result['versions'][name]}" for name in ("torch", "transformers", "trl"))
    cpu = f" ({result['cpu_minutes']:.1f} of CPU time)" if "cpu_minutes" in result else ""
    facts = (
        f"Held-out samples, answered greedily before and after {result['config']['max_steps']} steps, on "
        f"{result['hardware']}: {result['minutes']:.1f} minutes{cpu}, peak memory "
        f"{_memory(result)}; {versions}."
    )
    changes = [change for change in read_changes(result) if tasks or change.kind != "task"]
    return f"{facts}\n\n```text\n{table(changes)}\n```\n"


def render(document: str, results: dict[str, dict[str, Any]]) -> str:
    """The document with each of its blocks written anew; `all` is the learning table, `NAME/brief` has no tasks."""

    def block(match: re.Match[str]) -> str:
        name, _, part = match[2].partition("/")
        text = learning_table(results) if name == "all" else run_block(results.get(name), part != "brief")
        return match[1] + text + match[3]

    return BLOCK.sub(block, document)


def documents() -> list[Path]:
    """The documents that may hold blocks."""
    return [ROOT / "README.md", *sorted(ROOT.glob("recipes/**/README.md"))]


def main(argv: Sequence[str] | None = None) -> None:
    """Keep the given runs, then write every block."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="folders of runs (their output_dir)")
    for folder in parser.parse_args(argv).folders:
        keep(folder)
    results = load()
    for path in documents():
        path.write_text(render(path.read_text(), results))


if __name__ == "__main__":
    main()
