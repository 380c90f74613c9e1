"""rewards.yaml -> list of Reward, and the registry of names."""

import importlib
from pathlib import Path
from typing import Any

import yaml

from omnirl_core.rewards.reward import Reward, Scorer

SCORERS = {
    "think_format": "omnirl_core.rewards.format:think_format",
    "length_band": "omnirl_core.rewards.length:length_band",
    "repetition": "omnirl_core.rewards.length:repetition",
    "bleu": "omnirl_core.rewards.overlap:bleu",
    "rouge": "omnirl_core.rewards.overlap:rouge",
    "meteor": "omnirl_core.rewards.overlap:meteor",
    "overlap": "omnirl_core.rewards.overlap:overlap",
    "exact": "omnirl_core.rewards.answers:exact",
    "choice": "omnirl_core.rewards.answers:choice",
    "yes_no": "omnirl_core.rewards.answers:yes_no",
    "number": "omnirl_core.rewards.answers:number",
    "math": "omnirl_core.rewards.answers:math",
    "edit_similarity": "omnirl_core.rewards.answers:edit_similarity",
    "answer": "omnirl_core.rewards.answers:answer",
    "box_iou": "omnirl_core.rewards.grounding:box_iou",
    "box_f1": "omnirl_core.rewards.grounding:box_f1",
    "box_ap": "omnirl_core.rewards.grounding:box_ap",
    "code": "omnirl_core.rewards.code:code",
}
"""Name in rewards.yaml -> `module:function`, imported when it is named."""


def scorer_named(name: str) -> Scorer:
    """The scorer behind a registered name."""
    module, _, function = SCORERS[name].partition(":")
    return getattr(importlib.import_module(module), function)


def load_rewards(path: str | Path) -> list[Reward]:
    """Rewards of a rewards.yaml, in its order."""
    entries: list[dict[str, Any]] = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["rewards"]
    return [
        Reward(
            entry["name"],
            scorer_named(entry["name"]),
            float(entry.get("weight", 1.0)),
            entry.get("settings") or {},
        )
        for entry in entries
    ]
