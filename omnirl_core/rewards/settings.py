"""What a scorer can be set to, read from its signature: names, defaults, types."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from omnirl_core.rewards.ranges import range_faults
from omnirl_core.type_checks import nearest, value_faults

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
