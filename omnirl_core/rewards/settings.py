"""What a scorer can be set to, read from its signature: names, defaults, types."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from omnirl_core.boxes import SPACES
from omnirl_core.type_checks import nearest, value_faults

ABOVE_0 = (0.0, math.inf, "above 0")
FROM_0 = (0.0, math.inf, "0 or more")
RANGES: dict[
    str, tuple[float, float, str]
] = {  # least, most, in words; "above" and "below" leave the end out
    "relative_tolerance": (0.0, 1.0, "from 0 to below 1"),
    "absolute_tolerance": FROM_0,
    "tolerance": (0.0, 1.0, "from 0 to below 1"),
    "threshold": (0.0, 1.0, "above 0 and up to 1"),
    "thresholds": (0.0, 1.0, "above 0 and up to 1"),
    "floor": (0.0, 1.0, "from 0 to 1"),
    "timeout_s": ABOVE_0,
    "total_timeout_s": ABOVE_0,
    "memory_bytes": (16 << 20, math.inf, "16 MiB (16777216) or more"),
    "workers": FROM_0,
    "max_order": (1.0, math.inf, "1 or more"),
    "max_boxes": (1.0, math.inf, "1 or more"),
    "order": (1.0, math.inf, "1 or more"),
    "power": ABOVE_0,
    "light": (0.0, 1.0, "above 0 and up to 1"),
    "contradiction": (0.0, 1.0, "from 0 to 1"),
    "alpha": (0.0, 1.0, "above 0 and below 1"),
    "beta": FROM_0,
    "gamma": (0.0, 1.0, "from 0 to 1"),
    "low": ABOVE_0,
    "high": ABOVE_0,
    "edge": ABOVE_0,
}
CHOICES: dict[str, tuple[str, ...]] = {
    "space": tuple(SPACES),
    "solution_space": tuple(SPACES),
    "pick": ("last", "first", "only"),
    "kind": ("iou", "giou"),
    "measure": ("f1", "precision", "recall"),
    "language": ("auto", "python", "cpp"),
}


def range_faults(settings: Mapping[str, Any]) -> list[str]:
    """One message for each setting of this package's scorers that is out of its range.

    >>> range_faults({"relative_tolerance": 5}), range_faults({"space": "resize"})
    (['relative_tolerance: 5 must be from 0 to below 1'], ["space: 'resize' is not a choice; did you mean 'resized'?"])
    """
    faults = []
    for name, value in settings.items():
        if name in CHOICES and isinstance(value, str) and value not in CHOICES[name]:
            faults.append(f"{name}: {value!r} is not a choice{nearest(value, CHOICES[name])}")
        elif name in RANGES:
            faults += [
                f"{name}: {one} must be {RANGES[name][2]}"
                for one in _numbers(value)
                if not _lies(one, *RANGES[name])
            ]
            if name == "thresholds" and not list(_numbers(value)):
                faults.append("thresholds: an empty list judges nothing; leave it out for COCO's")
    return faults


def _numbers(value: Any) -> Iterable[float]:
    values = value if isinstance(value, list | tuple) else [value]
    return [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]


def _lies(value: float, least: float, most: float, words: str) -> bool:
    above, below = "above" in words, "below" in words
    return (
        math.isfinite(value)
        and (value > least if above else value >= least)
        and (value < most if below else value <= most)
    )


Scorer = Callable[..., float | None]

ROW_COLUMNS = ("completion_ids", "image_sizes", "resized_sizes", "prompt", "problem", "task")
"""Parameters that the batch fills row by row; rewards.yaml cannot set them."""


def reads_columns(*names: str) -> Callable[[Scorer], Scorer]:
    """Decorator: columns of the data that fill the scorer's parameters of these names, unless the YAML sets them.

    A parameter without a default, and in your own scorers one whose default is None, needs no declaration. Every
    other parameter is a setting, and a column that happens to have its name is data.
    """

    def mark(scorer: Scorer) -> Scorer:
        scorer.columns = names  # type: ignore[attr-defined]
        return scorer

    return mark


@dataclass(frozen=True)
class Signature:
    """What a scorer can be given, read from its parameters once."""

    takes_solution: bool
    keywords: tuple[str, ...]  # settings and columns
    takes_any: bool  # **columns
    defaults: Mapping[str, Any]
    annotations: Mapping[str, Any]

    columns: tuple[str, ...]  # keywords that a column of the data may fill

    @property
    def settings(self) -> tuple[str, ...]:
        return tuple(name for name in self.keywords if name not in ROW_COLUMNS)


@lru_cache(maxsize=256)
def signature_of(scorer: Scorer) -> Signature:
    """The second positional parameter is the solution, unless it has a default and another name."""
    parameters = list(inspect.signature(scorer).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    second = positional[1] if len(positional) > 1 else None
    takes_solution = second is not None and (
        second.default is second.empty or second.name in ("solution", "reference", "gold")
    )
    if getattr(scorer, "takes_batches", False):  # TRL's signature: every column may come by **kwargs
        takes_solution = any(p.name == "solution" or p.kind == p.VAR_KEYWORD for p in parameters)
    keywords = positional[1 + takes_solution :] + [p for p in parameters if p.kind == p.KEYWORD_ONLY]
    declared = (*ROW_COLUMNS, *getattr(scorer, "columns", ()))
    empty = (inspect.Parameter.empty,) if _is_ours(scorer) else (inspect.Parameter.empty, None)
    return Signature(
        takes_solution,
        tuple(p.name for p in keywords),
        any(p.kind == p.VAR_KEYWORD for p in parameters),
        {p.name: p.default for p in keywords if p.default is not p.empty},
        {p.name: p.annotation for p in keywords if p.annotation is not p.empty},
        tuple(p.name for p in keywords if p.default in empty or p.name in declared),
    )


def _is_ours(scorer: Scorer) -> bool:
    """A scorer of this package declares its columns; `threshold: float | None = None` is no column there."""
    return str(getattr(scorer, "__module__", "")).startswith("omnirl_core.rewards") and inspect.isfunction(
        scorer
    )


def setting_faults(scorer: Scorer, settings: Mapping[str, Any]) -> list[str]:
    """One message for each setting that the scorer does not have, or not with that value."""
    expects = signature_of(scorer)
    faults = []
    for name, value in settings.items():
        if name in ROW_COLUMNS:
            faults.append(f"'{name}' comes with each row and cannot be set")
        elif name in expects.keywords:
            faults += value_faults(name, value, expects.annotations.get(name))
        elif not expects.takes_any:
            faults.append(f"unknown setting '{name}'{nearest(name, expects.settings)}")
    return faults or (range_faults(settings) if _is_ours(scorer) else [])
