"""What a scorer can be set to, read from its signature: names, defaults, types."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from omnirl_core.values import nearest, value_faults

Scorer = Callable[..., float | None]

ROW_COLUMNS = ("completion_ids", "image_sizes", "resized_sizes", "prompt", "task")
"""Parameters that the batch fills row by row; rewards.yaml cannot set them."""


@dataclass(frozen=True)
class Signature:
    """What a scorer can be given, read from its parameters once."""

    takes_solution: bool
    keywords: tuple[str, ...]  # settings and columns
    takes_any: bool  # **columns
    defaults: Mapping[str, Any]
    annotations: Mapping[str, Any]

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
    keywords = positional[1 + takes_solution :] + [p for p in parameters if p.kind == p.KEYWORD_ONLY]
    return Signature(
        takes_solution,
        tuple(p.name for p in keywords),
        any(p.kind == p.VAR_KEYWORD for p in parameters),
        {p.name: p.default for p in keywords if p.default is not p.empty},
        {p.name: p.annotation for p in keywords if p.annotation is not p.empty},
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
    return faults
