"""Part `steps`: a GRPO step of TRL's trainer and of ours with a shared prefix, cell by cell."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

from presets import PRESETS, Cell, Preset
from training import Run, measure, measured

Items = Iterator[tuple[str, Callable[[], dict[str, Any]]]]


def steps(preset: Preset) -> Items:
    """Both trainers take turns; which one comes first changes from cell to cell."""
    for index, cell in enumerate(preset.cells):
        yield cell.name, partial(compare, cell, preset, (False, True) if index % 2 == 0 else (True, False))


def compare(cell: Cell, preset: Preset, order: tuple[bool, bool]) -> dict[str, Any]:
    """Steps of TRL's trainer and of ours (True) in this order."""
    for ours in order:
        warm_up(ours, preset.name)
    found: dict[str, Any] = {}
    for ours in order:
        run = Run(cell, ours)
        found["ours" if ours else "trl"] = measured(run, preset)
    completions = [found[which].pop("completions", []) for which in ("trl", "ours")]
    equal = sum(a == b for a, b in zip(*completions, strict=False))
    return {
        "status": "measured", "kind": cell.kind, "P": cell.prompt, "C": cell.completion, "G": preset.group,
        "bound": cell.bound(preset.group), "equal_completions": equal, **found,
    }  # fmt: skip


@cache
def warm_up(ours: bool, preset: str) -> None:
    """Kernels are compiled and loaded at their first call."""
    smallest = next(cell for cell in PRESETS[preset].cells if cell.kind == "image")
    measure(Run(smallest, ours, {"max_steps": 1}), PRESETS[preset])
