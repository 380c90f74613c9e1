"""What a scorer can be set to, read from its signature: names, defaults, types."""

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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
            faults += _value_faults(name, value, expects.annotations.get(name))
        elif not expects.takes_any:
            faults.append(f"unknown setting '{name}'{nearest(name, expects.settings)}")
    return faults


def _value_faults(name: str, value: Any, annotation: Any) -> list[str]:
    wanted = _alternatives(annotation)
    if not wanted or any(_fits(value, kind) for kind in wanted):
        return []
    choices = [
        choice
        for kind in wanted
        if typing.get_origin(kind) is typing.Literal
        for choice in typing.get_args(kind)
    ]
    if choices:
        return [f"{name}: {value!r} is not a choice{nearest(value, choices)}"]
    return [f"{name}: {value!r} is not {' or '.join(_kind_name(kind) for kind in wanted)}"]


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """Members of a union; () where the annotation says nothing that could be checked."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return typing.get_args(annotation)
    return () if annotation in (None, Any) or isinstance(annotation, str) else (annotation,)


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind)
    kind = typing.get_origin(kind) or kind
    if not isinstance(kind, type):
        return True
    if isinstance(value, bool):  # True is an int to Python, and a slip in a YAML
        return kind is bool
    return isinstance(value, kind) or (kind is float and isinstance(value, int))


def _kind_name(kind: Any) -> str:
    return "null" if kind is type(None) else getattr(kind, "__name__", str(kind))


def check_choice(setting: str, value: object, choices: Collection[object]) -> None:
    """ValueError naming the nearest choice when a setting has none of its values."""
    if value not in choices:
        raise ValueError(f"{setting}: {value!r} is not a choice{nearest(value, choices)}")


def nearest(name: object, known: Iterable[object]) -> str:
    """Tail of an error about an unknown name: the nearest known one, or all of them."""
    names = [str(one) for one in known if one is not None]
    close = difflib.get_close_matches(str(name), names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(names)}" if names else "; it has none"
