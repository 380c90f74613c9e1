"""What run.json and the lines of a run's folder say of its rewards: their weights, and what a sample can earn."""

import json
from collections.abc import Iterable, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from omnirl_core.types import JsonObject
from omnirl_tools.evaluation.lines import iter_lines

SECRETS = ("hub_token", "api_key", "secret", "password")
MOST_LINES = 20_000
"""Of completions.jsonl that are read for the rewards that judge a sample together."""


def parts(path: Path) -> list[Path]:
    """The file and, first, the one before it, which a run keeps where `log_file_limit_mb` was reached.

    >>> [part.name for part in parts(Path("run/completions.jsonl"))]
    ['completions.1.jsonl', 'completions.jsonl']
    """
    return [path.with_suffix(".1.jsonl"), path]


def read_run_file(folder: str | Path) -> JsonObject:
    """What run.json says, {} where it is not there or half written; what looks like a secret is hidden."""
    try:
        facts = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return _without_secrets(facts) if isinstance(facts, dict) else {}


def run_weights(run: Mapping[str, object], names: Iterable[str]) -> dict[str, float]:
    """Weights of the rewards `names`, in the trainer's order, from run.json; {} where they do not fit.

    >>> run_weights({"config": {"reward_weights": [0.1, 1.0]}}, ["think_format", "box_iou"])
    {'think_format': 0.1, 'box_iou': 1.0}
    """
    config = run.get("config")
    weights = config.get("reward_weights") if isinstance(config, dict) else None
    names = list(names)
    return dict(zip(names, weights, strict=True)) if weights and len(weights) == len(names) else {}


def judging_weights(folder: str | Path) -> list[dict[str, float]]:
    """Weights of the rewards that judge a completion together, one entry for each set of them that occurs."""
    run = read_run_file(folder)
    found: dict[tuple, dict[str, float]] = {}
    lines = chain.from_iterable(iter_lines(part) for part in parts(Path(folder) / "completions.jsonl"))
    for _, line in islice(lines, MOST_LINES):
        rewards = line.get("rewards")
        if isinstance(rewards, dict):
            weights = line.get("weights") or run_weights(run, rewards)
            judging = {name: weights.get(name, 1.0) for name, value in rewards.items() if value is not None}
            found.setdefault(tuple(judging.items()), judging)
    return list(found.values())


def _without_secrets(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(item, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item, name) for item in value]
    return "(hidden)" if value and name.lower().endswith(SECRETS) else value
