"""One setting's value, from YAML or the command line, as the type that its dataclass field holds."""

import dataclasses
import json
import typing
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from omnirl_core.type_checks import alternatives, choices_of, nearest, value_faults

TRL_CHOICES: dict[str, tuple[Any, ...]] = {
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "vllm_mode": ("server", "colocate"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}
"""Of settings that TRL 1.16 types as text and looks at after the model is loaded (tests/config/test_parser.py)."""


def read_value(
    name: str, value: Any, annotation: Any, field: dataclasses.Field | None = None
) -> tuple[Any, str | None]:
    """(value, fault): text made what the field holds, and checked against its type and choices.

    >>> read_value("learning_rate", "1e-6", float), read_value("max_steps", "ten", int)[1]
    ((1e-06, None), "max_steps: 'ten' is not int")
    """
    kinds = alternatives(annotation)
    if value is None and (field is None or field.default is None or type(None) in kinds):
        return value, None
    choices = _choices(name, annotation, field)
    if isinstance(value, bool) and value in choices:
        return value, None
    if isinstance(value, bool) and choices and bool not in kinds:
        return _bare_word(name, value, choices)
    if isinstance(value, str):
        value = _from_text(value, kinds)
        if isinstance(value, str) and _holds(dict, kinds) and value.lstrip().startswith("{"):
            return value, f"{name}: {value!r} is no JSON mapping"
    if choices and isinstance(value, str) and value not in choices:
        return value, f"{name}: {value!r} is not a choice{nearest(value, choices)}"
    faults = value_faults(name, value, annotation)
    if faults and str in kinds and isinstance(value, bool | int | float):
        faults = [f"{faults[0]}; put it in quotes"]  # a bare no, on, 5 or 1.0 of YAML is no text
    if not faults and isinstance(value, list):
        items = [typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is list]
        faults = [fault for item in value for fault in value_faults(name, item, items[0])] if items else []
    return value, faults[0] if faults else None


def _bare_word(name: str, value: bool, choices: Sequence[Any]) -> tuple[Any, str | None]:
    """YAML 1.1 reads a bare `on`, `yes`, `off` or `no` as a truth value; the word is meant where it is a choice."""
    meant = [word for word in (("on", "yes", "true") if value else ("off", "no", "false")) if word in choices]
    if meant:
        return meant[0], None
    return value, f"{name}: {value} is not a choice{nearest(value, choices)}"


def _choices(name: str, annotation: Any, field: dataclasses.Field | None) -> list[Any]:
    """The only values that the field takes, or [] where it takes any; `SomeEnum | str` is TRL's enumeration."""
    if field is not None and field.metadata.get("choices"):
        return list(field.metadata["choices"])
    kinds = alternatives(annotation)
    is_open = str in kinds and not any(isinstance(kind, type) and issubclass(kind, Enum) for kind in kinds)
    return list(TRL_CHOICES.get(name, ())) if is_open else choices_of(annotation)


def _from_text(text: str, kinds: Sequence[Any]) -> Any:
    """The text as a mapping, a truth value or a number where the field holds one; else as it is."""
    if _holds(dict, kinds) and text.lstrip().startswith("{"):
        return _tried(json.loads, text)
    if str in kinds:
        return text
    readers: tuple[tuple[type, Callable[[str], Any]], ...] = (
        (bool, string_to_bool), (int, int), (float, float),
    )  # fmt: skip
    for kind, read in readers:
        if kind in kinds and not isinstance(value := _tried(read, text), str):
            return value
    lists = [typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is list]
    return [_from_text(text, lists[0])] if lists else text


def string_to_bool(text: str) -> bool:
    """As transformers reads truth values; ValueError for other words."""
    word = text.lower()
    if word not in ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"):
        raise ValueError(f"{text!r} is no truth value")
    return word in ("yes", "true", "t", "y", "1")


def _holds(wanted: type, kinds: Sequence[Any]) -> bool:
    return any((typing.get_origin(kind) or kind) is wanted for kind in kinds)


def _tried(read: Callable[[str], Any], text: str) -> Any:
    """What `read` makes of the text; the text itself where it makes nothing, which is then the fault."""
    try:
        return read(text)
    except ValueError:
        return text
