"""A run's settings: what a recipe's YAML and command line say, as the objects that they configure.

All that is wrong with both is one error, before a model is loaded. TRL and torch are imported where `parse` needs
them: a command that reads `DataArguments` only does without.
"""

import dataclasses
import difflib
import os
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omnirl_core.data.columns import checked_columns
from omnirl_core.types import alternatives, nearest, setting
from omnirl_core.yaml_loader import ConfigError, Given, read_given, read_mapping, read_value

if TYPE_CHECKING:
    from trl import ModelConfig

    from omnirl_core.trainer import OmniGRPOConfig

SPLITS = {"dataset_name": "train", "eval_dataset_name": "test"}
"""Setting that names a file of rows -> the split of it that `draw_shapes` draws."""

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

_MOST_ROUNDS = 10

Check = Callable[[Mapping[str, Any]], Iterable[tuple[str | None, str]]]
"""Looks at the settings that were given; yields (the setting that is at fault, if it is one, and what is wrong)."""


@dataclasses.dataclass
class DataArguments:
    """What to train on and what to reward. Paths are relative to the folder that the command runs in."""

    dataset_name: str = dataclasses.field(
        metadata={"help": "training rows: JSON, JSONL, Parquet, CSV, YAML mixture or a hub id"}
    )
    rewards: str | None = setting(None, "rewards.yaml; without one, by what the rows' answers are: boxes or text")
    eval_dataset_name: str | None = setting(None, "held-out rows, answered greedily before and after training")
    eval_rows: int | None = setting(None, "use only the first N held-out rows")
    image_root: str | None = setting(None, "folder that image paths are relative to")
    columns: dict | str | None = setting(
        None, "our names of the data's columns: {problem: question, solution: answer}"
    )
    templates: dict | str | None = setting(None, "prompt template per task (docs/data.md)")
    system_prompt: str | None = setting(None, "system turn before every prompt")
    on_bad_sample: str = setting("error", "what a bad row does: stop the run, or be left out", ["error", "skip"])
    check_images: str = setting(
        "header",
        "how far images are looked at before training; on_bad_sample: skip always reads all pixels",
        ["exists", "header", "pixels"],
    )
    max_image_pixels: int | None = setting(None, "most pixels of an image's file; default: Pillow's 178,956,970")
    allow_outside_image_root: bool = setting(False, "let image paths, or links, lead out of image_root")
    draw_shapes: dict | str | None = setting(
        None, "{task, train, test, seed}: draw the files that the same YAML names, where they are missing"
    )
    warm_start_check: bool = setting(
        True,
        "recipes/grpo.py: before training, answer 32 prompts; where none earns a reward, say so with the command of a "
        "warm start by SFT",
    )

    def __post_init__(self) -> None:
        for name in ("templates", "columns", "draw_shapes"):  # on the command line a mapping is JSON or YAML
            if isinstance(getattr(self, name), str):
                setattr(self, name, read_mapping(getattr(self, name)))
        if self.columns is not None:
            self.columns = dict(checked_columns(self.columns))
        if self.max_image_pixels is not None and self.max_image_pixels < 1:
            raise ValueError(f"max_image_pixels {self.max_image_pixels} is not a whole number above 0")


def parse(
    argv: Sequence[str] | None = None, checks: Iterable[Check] = ()
) -> "tuple[DataArguments, OmniGRPOConfig, ModelConfig]":
    """Read `--config FILE` and what overrides it; `argv` is the command line by default.

    Args:
        checks: further checks of the settings.

    Raises:
        ConfigError: all that is wrong.
    """
    from trl import ModelConfig

    from omnirl_core.trainer import OmniGRPOConfig

    kinds = [DataArguments, OmniGRPOConfig, ModelConfig]
    return StrictParser(kinds, checks, adjust=only_own_names).parse(argv)  # type: ignore[return-value]


def only_own_names(given: Sequence[Given]) -> list[Given]:
    """The settings with the splits taken out of `draw_shapes` whose file is named elsewhere than it stands itself.

    >>> yaml = [Given("draw_shapes", {"task": "rec", "train": 9, "test": 3}, "demo.yaml:4"),
    ...         Given("dataset_name", "a/train.json", "demo.yaml:5")]
    >>> only_own_names([*yaml, Given("dataset_name", "mine/trian.json", "command line")])[0].value
    {'task': 'rec', 'test': 3}
    """
    last = {one.name: one for one in given}
    shapes = last.get("draw_shapes")
    if shapes is None or not isinstance(shapes.value, dict):
        return list(given)
    file = _file(shapes)
    others = [split for name, split in SPLITS.items() if name in last and _file(last[name]) != file]
    kept = shapes._replace(value={key: value for key, value in shapes.value.items() if key not in others})
    return [kept if one is shapes else one for one in given]


def _file(one: Given) -> str:
    return one.place.rpartition(":")[0] or one.place


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
            known = TRL_CHOICES.get(one.name, ())
            value, fault = read_value(one.name, one.value, self.annotations[one.name], self.fields[one.name], known)
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
