"""What a recipe's YAML and command line say, as the objects that they configure."""

import difflib
import json
import sys
from dataclasses import dataclass, field
from typing import Any

from trl import ModelConfig, TrlParser

from omnirl_core.config_file import ConfigError, split_config
from omnirl_core.trainer import OmniGRPOConfig

EARLIER_NAMES = {"--torch_dtype": "--dtype"}  # transformers 5 has renamed it


@dataclass
class DataArguments:
    """What to train on and what to reward. Paths are relative to the folder that the command runs in."""

    dataset_name: str = field(metadata={"help": "JSON, JSONL or YAML mixture of training rows, or a hub id"})
    rewards: str = field(metadata={"help": "rewards.yaml"})
    eval_dataset_name: str | None = field(
        default=None, metadata={"help": "held-out rows, answered greedily before and after training"}
    )
    eval_rows: int | None = field(default=None, metadata={"help": "use only the first N held-out rows"})
    image_root: str | None = field(default=None, metadata={"help": "folder that image paths are relative to"})
    templates: dict | str | None = field(
        default=None, metadata={"help": "prompt template per task (docs/data.md)"}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "system turn before every prompt"})
    on_bad_sample: str = field(
        default="error",
        metadata={"help": "what a bad row does: stop the run, or be left out", "choices": ["error", "skip"]},
    )
    check_images: str = field(
        default="header",
        metadata={
            "help": "how far pictures are looked at before training; on_bad_sample: skip always reads all pixels",
            "choices": ["exists", "header", "pixels"],
        },
    )
    max_image_pixels: int | None = field(
        default=None,
        metadata={"help": "most pixels of a picture's file; default: Pillow's 178,956,970"},
    )
    allow_outside_image_root: bool = field(
        default=False, metadata={"help": "let image paths, or links, lead out of image_root"}
    )
    draw_shapes: dict | str | None = field(
        default=None,
        metadata={
            "help": "{task, train, test, seed}: draw dataset_name and eval_dataset_name where they are missing"
        },
    )

    def __post_init__(self) -> None:
        for name in ("templates", "draw_shapes"):  # on the command line a mapping is JSON
            if isinstance(getattr(self, name), str):
                setattr(self, name, json.loads(getattr(self, name)))
        if self.max_image_pixels is not None and self.max_image_pixels < 1:
            raise ValueError(f"max_image_pixels {self.max_image_pixels} is not a whole number above 0")


def parse(argv: list[str] | None = None) -> tuple[DataArguments, OmniGRPOConfig, ModelConfig]:
    """Read `--config FILE` and what overrides it; `argv` is the command line by default."""
    return parse_as((DataArguments, OmniGRPOConfig, ModelConfig), argv)


def parse_as(kinds: tuple[type, ...], argv: list[str] | None = None) -> Any:
    """One object of each dataclass, from `--config FILE`, its includes, and the command line over both.

    As `TrlParser.parse_args_and_config`, but for includes, equal keys and the earlier OmniRL's names.
    """
    parser = TrlParser(kinds)  # type: ignore[arg-type]  # TRL types it so
    given = sys.argv[1:] if argv is None else argv
    path, config, options = split_config([_present_name(argument) for argument in given])
    names = {action.dest for action in parser._actions}
    if unknown := [name for name in config if name not in names]:
        told = "; ".join(_with_nearest(name, names) for name in unknown)
        raise ConfigError(f"{path}: unknown settings: {told}")
    parser.set_defaults_with_config(**config)
    return parser.parse_args_into_dataclasses(args=options)


def _with_nearest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"{name!r}, did you mean {close[0]!r}?" if close else repr(name)


def _present_name(argument: str) -> str:
    """The option of today for one of the earlier OmniRL's command line.

    >>> _present_name("--torch_dtype"), _present_name("--bf16")
    ('--dtype', '--bf16')
    """
    name, *value = argument.split("=", 1)
    return "=".join([EARLIER_NAMES.get(name, name), *value])
