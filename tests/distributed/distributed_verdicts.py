"""Layouts trained on many processes and in one, compared: weights after SGD steps, so gradients, losses, rollouts."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import torch
from distributed_layouts import Layout, dump
from forked import environment, python

RANKS = Path(__file__).parent / "distributed_ranks.py"
TOLERANCE = 1e-5
"""Of the difference of an update, relative to the update, for each step of it; of a loss, relative to 1 or to itself.

What rounding leaves after one step changes the next step's gradient: after three, 1.5e-5 was seen, and 5e-7 where the
same rows were trained in double precision.
"""
FP32_ROUNDING = 2.0**-24
"""Of a weight, relative to it: what two runs that differ in the order of a sum may end apart by."""


def verdicts(
    layouts: list[Layout], checkpoint: str, image_files: list[str], folder: Path, timeout_s: float
) -> dict[Layout, str]:
    """What is wrong with each layout; "" where nothing is."""
    single = {str(layout.single()): layout.single() for layout in layouts}
    # processes of one engine and number run one after the other in one group
    todo = [*single.values(), *sorted(layouts, key=lambda layout: (layout.engine, layout.processes))]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "layouts.json").write_text(dump(todo))
    command = [
        python(), str(RANKS), str(folder / "layouts.json"), "--checkpoint", checkpoint, "--output", str(folder),
        "--image_files", *image_files,
    ]  # fmt: skip
    given = environment(DS_ACCELERATOR="cpu")
    given.pop("ACCELERATE_USE_CPU", None)  # would switch DeepSpeed off
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads((folder / "outcomes.json").read_text())
    left = {layout: folder / f"{place}.pt" for place, layout in enumerate(todo)}
    found = {}
    for layout, outcome in zip(todo, outcomes, strict=True):
        if layout.processes == 1:
            assert outcome == "ok", outcome
            continue
        expected = left[single[str(layout.single())]]
        found[layout] = "" if outcome == "ok" else outcome
        if outcome == "ok":
            found[layout] = "; ".join(faults(layout, torch.load(left[layout]), torch.load(expected)))
    return found


def faults(layout: Layout, result: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What differs from the single process, and what the processes disagree about."""
    found = [
        f"{name} differs by {size:.1e}"
        for name, size in differences(layout, result, expected).items()
        if not size <= TOLERANCE * (1 if name == "loss" else layout.steps)
    ]
    if len(set(result["checksums"])) > 1:
        found.append("processes end with different weights")
    if result["generated"] != expected["generated"]:
        found.append("other completions are generated")
    for batch, shares in enumerate(zip(*result["drawn"], strict=True)):
        rows = [row for share in shares for row in share]
        first = batch * layout.prompts_per_step
        if sorted(rows, key=int) != [str(first + place) for place in range(layout.prompts_per_step)]:
            found.append(f"step {batch + 1} draws {shares}")
    return found


def differences(layout: Layout, result: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """Relative difference of the update of each part, of the losses, and of gradient norms where they are clipped."""
    assert result["moved"].keys() == expected["moved"].keys(), "other parameters are trainable"
    found = {}
    for part, sees in (("vision", True), ("language", False)):
        names = [name for name in expected["moved"] if (".visual." in name) == sees]
        if names:
            moved, right = (torch.cat([r["moved"][n].flatten() for n in names]) for r in (result, expected))
            rounding = FP32_ROUNDING * math.hypot(*(expected["size"][name] for name in names))
            apart = max(0.0, float((moved - right).norm()) - rounding)
            found[part] = apart / (float(right.norm()) or 1.0)
    for name in ("loss", "grad_norm") if layout.settings.get("max_grad_norm") else ("loss",):
        logged = zip(result[name], expected[name], strict=True)
        found[name] = max(abs(a - b) / max(1.0, abs(b)) for a, b in logged)
    return found
