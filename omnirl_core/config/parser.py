"""Dataclasses from `--config FILE` and what overrides it; all that is wrong with both in one error."""

import dataclasses
import difflib
import os
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from omnirl_core.type_checks import alternatives, choices_of, nearest, value_faults
from omnirl_core.yaml_loader import ConfigError, Given, read_given, read_mapping

COMMAND_LINE = "command line"
EARLIER_NAMES = {"torch_dtype": "dtype"}
"""The earlier OmniRL's names; transformers 5 has renamed this one."""

TRL_CHOICES: dict[str, tuple[Any, ...]] = {
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "vllm_mode": ("server", "colocate"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}
"""Of settings that TRL 1.16 types as text and looks at after the model is loaded."""

_YES, _NO = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
_MOST_ROUNDS = 10

Check = Callable[[Mapping[str, Any]], Iterable[tuple[str | None, str]]]
"""Looks at the settings that were given; yields (the setting that is at fault, if it is one, and what is wrong)."""


class StrictParser:
    """Reads what TrlParser reads, and refuses what it takes in silence or reports one at a time.

    Unknown names, with the nearest that is known; keys given twice; values of another type than the field's; choices
    that there are not; what making the dataclasses shows. `elsewhere` are dataclasses of settings that a YAML may
    have for another command, and that are read over. `checks` look at all values that were given, `adjust` at where
    each stands: what it returns is read. With `reads_over`, names of a YAML that none of the dataclasses has are left
    alone: a command that wants few settings need not import what has the others.
    """

    def __init__(
        self,
        kinds: Sequence[type],
        checks: Iterable[Check] = (),
        elsewhere: Iterable[type] = (),
        hints: Mapping[str, str] | None = None,
        adjust: Callable[[Sequence[Given]], list[Given]] = list,
        reads_over: bool = False,
    ) -> None:
        self.kinds, self.checks, self.hints = list(kinds), list(checks), dict(hints or {})
        self.adjust, self.reads_over = adjust, reads_over
        self.fields: dict[str, dataclasses.Field] = {}
        self.annotations: dict[str, Any] = {}
        for kind in self.kinds:
            types = typing.get_type_hints(kind)
            own = {field.name: field for field in dataclasses.fields(kind) if field.init}
            self.fields |= own
            self.annotations |= {name: types[name] for name in own}
        self.elsewhere = {name for kind in elsewhere for name in _field_names(kind)} - set(self.fields)

    def parse(self, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
        """The dataclasses; ConfigError, or for the real command line (`argv` None) its message and exit code 2."""
        words = list(sys.argv[1:] if argv is None else argv)
        if {"-h", "--help"} & set(words):
            from trl import TrlParser  # takes seconds

            TrlParser(self.kinds).print_help()  # type: ignore[arg-type]  # TRL types it so
            raise SystemExit(0)
        try:
            return self._parsed(words)
        except ConfigError as error:
            if argv is not None:
                raise
            if os.environ.get("LOCAL_RANK", "0") == "0":  # the others would say the same
                print(error, file=sys.stderr)
            raise SystemExit(2) from None  # as argparse ends

    def _parsed(self, words: list[str]) -> tuple[Any, ...]:
        faults: list[str] = []
        config, options = _split(words, faults)
        given = self._from_file(config, faults) if config is not None else []
        if faults and not given:  # no config that could be read: what it lacks would mislead
            raise ConfigError(faults)
        given += self._from_options(options, faults)
        values = self._checked(self.adjust(given), faults)
        for check in self.checks:
            faults += [_placed(given, name, message) for name, message in check(values)]
        if not faults:
            try:
                return tuple(kind(**self._own(kind, values)) for kind in self.kinds)
            except (ValueError, TypeError, ImportError, OSError) as error:
                faults = self._making_faults(given, values) or [str(error)]
                raise ConfigError(faults) from error
        faults += self._making_faults(given, values)
        raise ConfigError(list(dict.fromkeys(faults)))

    # -- what was given -----------------------------------------------------------------------------------------

    def _from_file(self, path: str, faults: list[str]) -> list[Given]:
        given = []
        for name, value, place in read_given(path, faults):
            name = EARLIER_NAMES.get(name, name)
            if name == "env":  # as TRL has it: a mapping of environment variables
                if isinstance(value, dict):
                    os.environ.update({key: str(text) for key, text in value.items()})
                else:
                    faults.append(f"{place}: env: {value!r} is no mapping of names to values")
            elif name in self.fields:
                given.append(Given(name, value, place))
            elif name not in self.elsewhere and (not self.reads_over or self._is_misspelled(name)):
                faults.append(f"{place}: unknown setting '{name}'{self._nearest(name, self.elsewhere)}")
        return given

    def _is_misspelled(self, name: str) -> bool:
        """Whether it is close to a setting of ours, as no setting of TRL is."""
        return bool(difflib.get_close_matches(name, self.fields, n=1, cutoff=0.8))

    def _nearest(self, name: str, more: Iterable[str] = ()) -> str:
        return nearest(name, [*self.fields, *more], only_close=True) or "; --help lists all"

    def _from_options(self, words: list[str], faults: list[str]) -> list[Given]:
        """`--name value ...`; an option without a value is a switch."""
        given = []
        for option, texts in _grouped(words, faults):
            name = option.lstrip("-").replace("-", "_")
            name = EARLIER_NAMES.get(name, name)
            if name not in self.fields and name.removeprefix("no_") in self.fields and not texts:
                name, texts = name.removeprefix("no_"), ["false"]
            kinds = alternatives(self.annotations.get(name))
            is_list = any(typing.get_origin(kind) is list for kind in kinds)
            if name in self.elsewhere:
                hint = f" ({self.hints[name]})" if name in self.hints else ""
                faults.append(
                    f"{COMMAND_LINE}: {option} is a setting of training, and changes nothing here{hint}; remove it"
                )
            elif name not in self.fields:
                faults.append(f"{COMMAND_LINE}: unknown option {option}{self._nearest(name)}")
            elif not texts and bool not in kinds:
                faults.append(f"{COMMAND_LINE}: {option} wants a value")
            elif len(texts) > 1 and not is_list:
                faults.append(f"{COMMAND_LINE}: {option} takes one value, found {' '.join(texts)!r}")
            else:
                value = texts if is_list and len(texts) != 1 else texts[0] if texts else "true"
                given.append(Given(name, value, COMMAND_LINE))
        return given

    def _checked(self, given: Iterable[Given], faults: list[str]) -> dict[str, Any]:
        """The values that their fields take, of their fields' types; later ones override."""
        values: dict[str, Any] = {}
        for one in given:
            value, fault = read_value(one.name, one.value, self.annotations[one.name], self.fields[one.name])
            if fault is None:
                values[one.name] = value
            else:
                faults.append(f"{one.place}: {fault}")
        names = {one.name for one in given}
        for name, field in self.fields.items():
            if _is_required(field) and name not in names:
                faults.append(f"{name} is missing: {field.metadata.get('help', 'it has no default')}")
        return values

    # -- what the dataclasses themselves refuse -----------------------------------------------------------------

    def _own(self, kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
        names = _field_names(kind)
        return {name: value for name, value in values.items() if name in names}

    def _making_faults(self, given: list[Given], values: Mapping[str, Any]) -> list[str]:
        """What making each dataclass of the good values raises, at the place of the setting that it begins with."""
        faults = []
        for kind in self.kinds:
            own = self._own(kind, values)
            for message in making_faults(kind, own):
                blamed = next((name for name in own if re.match(rf"{name}\b", message)), None)
                faults.append(_placed(given, blamed, message))
        return faults


def making_faults(kind: type, values: Mapping[str, object]) -> list[str]:
    """All that making `kind` of these values raises, although it stops at the first.

    The settings that an error names are left out and the rest tried again; an error that names none of those left
    would be about defaults, and ends it.
    """
    faults: list[str] = []
    left = dict(values)
    required = {field.name for field in dataclasses.fields(kind) if _is_required(field)}
    for _ in range(_MOST_ROUNDS if required <= set(left) else 0):
        try:
            kind(**left)
        except (ValueError, TypeError, ImportError, OSError) as error:
            named = [name for name in left if re.search(rf"\b{name}\b", str(error)) and name not in required]
            if faults and not named:
                break
            faults += str(error).splitlines()
            if not named:
                break
            left = {name: value for name, value in left.items() if name not in named}
        else:
            break
    return faults


def _split(words: list[str], faults: list[str]) -> tuple[str | None, list[str]]:
    """The file of `--config FILE` or `--config=FILE`, and the words besides."""
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if "--config" not in words:
        return None, words
    at = words.index("--config")
    if at + 1 == len(words) or words[at + 1].startswith("--"):
        faults.append(f"{COMMAND_LINE}: --config wants a file")
        return None, words[:at] + words[at + 1 :]
    rest = words[:at] + words[at + 2 :]
    if "--config" in rest:
        faults.append(f"{COMMAND_LINE}: --config is given twice; one file holds all settings")
    return words[at + 1], [word for word in rest if word != "--config"]


def _grouped(words: list[str], faults: list[str]) -> list[tuple[str, list[str]]]:
    """(option, the words that follow it)."""
    groups: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            groups.append((word, []))
        elif groups:
            groups[-1][1].append(word)
        else:
            faults.append(f"{COMMAND_LINE}: {word!r} belongs to no option; is it --config {word}?")
    return groups


def _placed(given: Iterable[Given], name: str | None, message: str) -> str:
    place = next((one.place for one in reversed(list(given)) if one.name == name), None)
    return message if place is None else f"{place}: {message}"


def _is_required(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.init and field.default is missing and field.default_factory is missing


def _field_names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind) if field.init}


# -- one value ----------------------------------------------------------------------------------------------------


def read_value(
    name: str, value: object, annotation: object, field: dataclasses.Field | None = None
) -> tuple[object, str | None]:
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
            return value, f"{name}: {value!r} is no mapping; write '{{name: value}}'"
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
        return _tried(read_mapping, text)
    if str in kinds:
        return text
    readers: tuple[tuple[type, Callable[[str], Any]], ...] = (
        (bool, _truth), (int, int), (float, float),
    )  # fmt: skip
    for kind, read in readers:
        if kind in kinds and not isinstance(value := _tried(read, text), str):
            return value
    lists = [typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is list]
    return [_from_text(text, lists[0])] if lists else text


def _truth(word: str) -> bool:
    """As transformers reads truth values; ValueError for other words."""
    if (lower := word.lower()) not in (*_YES, *_NO):
        raise ValueError(f"{word!r} is no truth value")
    return lower in _YES


def _holds(wanted: type, kinds: Sequence[Any]) -> bool:
    return any((typing.get_origin(kind) or kind) is wanted for kind in kinds)


def _tried(read: Callable[[str], Any], text: str) -> Any:
    """What `read` makes of the text; the text itself where it makes nothing, which is then the fault."""
    try:
        return read(text)
    except ValueError:
        return text
