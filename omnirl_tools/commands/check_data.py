"""Check every row and image before a run: a recipe's YAML, or a data file.

  omnirl check-data recipes/mixed/demo.yaml
  omnirl check-data train.jsonl --image_root images --eval_dataset_name test.jsonl

Rows: format, keys, placeholders, missing images. Images: cannot be opened, cut short (--decode reads every
pixel and finds damage in the middle too), too small, too large, too slim. With a recipe that sets max_prompt_length:
prompts that are too long, image tokens included. Training rows that are in the evaluation rows too.
A recipe's keys can be overridden as for recipes/grpo.py: --max_prompt_length 512.
Exit code 1 when a row is bad or leaked; the report has every one of them, one a line, as file:line.
"""

import argparse
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from omnirl_core.config import DataArguments, StrictParser, only_own_names
from omnirl_core.data import DataError, PromptFormat
from omnirl_core.data.images import cores
from omnirl_core.data.sources import Source, find_sources
from omnirl_core.types import nearest_file
from omnirl_core.yaml_loader import ConfigError, read_mapping
from omnirl_tools.checks.data import check_data
from omnirl_tools.checks.parallel import WorkerDied
from omnirl_tools.checks.path_checks import data_file_faults, image_root_faults
from omnirl_tools.checks.row_check import MIN_SIDE, RowCheck
from omnirl_tools.commands import CannotRun
from omnirl_tools.commands.config_file import drawn_temporarily, read_settings

if TYPE_CHECKING:
    from omnirl_core.trainer.prompt_length import PromptLength

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="CONFIG|DATA", help="a recipe's YAML, or data (docs/data.md)")
    parser.add_argument("--image_root", help="folder that image paths are relative to")
    parser.add_argument("--columns", help="our names of the data's columns: '{problem: question, solution: answer}'")
    parser.add_argument("--eval_dataset_name", help="evaluation rows, checked too and for duplicates")
    parser.add_argument("--decode", action="store_true", help="decode every image: slower, and nothing is missed")
    parser.add_argument("--min_side", type=int, default=MIN_SIDE, help="least pixels of a side (default %(default)s)")
    parser.add_argument("--max_image_pixels", type=int, help="most pixels of a file (default: Pillow's 178,956,970)")
    parser.add_argument("--allow_outside_image_root", action="store_true", help="image paths may lead out of it")
    parser.add_argument("--workers", type=int, default=cores(), help="processes (default %(default)s)")
    parser.add_argument(
        "--report",
        type=Path,
        help="write every fault to this file; of a recipe also unasked, to check_data.txt in its output_dir",
    )


@dataclass(frozen=True)
class Plan:
    """What to check, how, and where the report goes."""

    splits: dict[str, list[Source]]
    check: RowCheck
    report: Path | None
    seed: int = 0
    allow_outside_image_root: bool = False


def run(arguments: argparse.Namespace) -> int:
    if _is_recipe(arguments.source):
        return _run_recipe(arguments)
    if arguments.overrides:
        raise CannotRun(f"{arguments.overrides[0]}: only a recipe's keys can be overridden")
    return _checked(arguments, _of_file(arguments))


def _checked(arguments: argparse.Namespace, plan: Plan) -> int:
    with tqdm(desc="rows", unit="", disable=not sys.stderr.isatty()) as bar:
        try:
            found = check_data(
                plan.splits,
                plan.check,
                plan.report,
                asked=arguments.report is not None,
                workers=arguments.workers,
                seed=plan.seed,
                allow_outside_image_root=plan.allow_outside_image_root,
                on_row=bar.update,
            )
        except OSError as error:  # the report cannot be written, or must not
            raise CannotRun(str(error)) from error
        except WorkerDied as error:
            rows = [getattr(row, "source", row) for row in error.chunk]
            reason = "an image crashes Pillow, or memory ran out; --workers 1 shows where"
            raise CannotRun(f"a worker died between {rows[0]} and {rows[-1]}: {reason}") from error
    print(found)
    return int(bool(found.faults))


def _is_recipe(source: str) -> bool:
    is_yaml = source.endswith((".yaml", ".yml")) or Path(source, "config.yaml").is_file()  # read_settings names it
    return is_yaml and "dataset_name" in read_settings(source)


def _run_recipe(arguments: argparse.Namespace) -> int:
    overrides = list(arguments.overrides)
    for name in ("image_root", "columns", "eval_dataset_name", "max_image_pixels"):
        if getattr(arguments, name) is not None:
            overrides += [f"--{name}", str(getattr(arguments, name))]
    data, length = _settings(arguments.source, overrides)
    try:
        with drawn_temporarily(data) as at_hand:
            return _checked(arguments, _of_recipe(arguments, at_hand, length))
    except DataError as error:
        raise CannotRun(str(error)) from error


@dataclass
class CheckSettings(DataArguments):
    """What the check reads of a recipe; settings of TRL and of the model are read over."""

    output_dir: str = field(default="trainer_output", metadata={"help": "the run's folder"})
    seed: int = field(default=42, metadata={"help": "of a mixture's random rows"})
    max_prompt_length: int | None = field(default=None, metadata={"help": "most tokens of a prompt"})


def _settings(path: str, overrides: list[str]) -> "tuple[CheckSettings, PromptLength | None]":
    """The settings, and what measures prompts where their length is limited; only then TRL is imported."""
    names = {field.name for field in fields(CheckSettings)}
    words = [word.partition("=")[0] for word in overrides if word.startswith("--")]
    is_known = all(word.removeprefix("--").replace("-", "_") in names for word in words)
    if is_known:
        parser = StrictParser([CheckSettings], [data_file_faults], adjust=only_own_names, reads_over=True)
        try:
            [settings] = parser.parse(["--config", path, *overrides])
        except ConfigError as error:
            raise CannotRun(str(error)) from error
        if settings.max_prompt_length is None:
            return settings, None
    from omnirl_core.trainer.prompt_length import PromptLength
    from omnirl_tools.commands.recipe import read_recipe  # with it comes TRL, which takes seconds

    recipe = read_recipe(path, overrides, [data_file_faults])
    training = recipe.training
    given = {field.name: getattr(recipe.data, field.name) for field in fields(recipe.data)}
    settings = CheckSettings(
        **given,
        output_dir=str(training.output_dir),
        seed=training.seed,
        max_prompt_length=training.max_prompt_length,
    )
    if training.max_prompt_length is None:
        return settings, None
    return settings, PromptLength(recipe.processor(), recipe.template_kwargs)


def _of_recipe(arguments: argparse.Namespace, data: CheckSettings, length: "PromptLength | None") -> Plan:
    check = _row_check(arguments, data.max_image_pixels)
    check.prompts = _prompts(data.templates, data.system_prompt)
    check.length, check.max_prompt_length = length, data.max_prompt_length
    report = arguments.report or Path(data.output_dir) / "check_data.txt"
    outside = arguments.allow_outside_image_root or data.allow_outside_image_root
    splits = _splits(data.dataset_name, data.eval_dataset_name, data.image_root, data.columns)
    return Plan(splits, check, report, data.seed, outside)


def _of_file(arguments: argparse.Namespace) -> Plan:
    try:
        columns = read_mapping(arguments.columns) if arguments.columns else None
    except ValueError as error:
        raise CannotRun(f"--columns: {error}") from error
    splits = _splits(arguments.source, arguments.eval_dataset_name, arguments.image_root, columns)
    check = _row_check(arguments, arguments.max_image_pixels)
    return Plan(splits, check, arguments.report, allow_outside_image_root=arguments.allow_outside_image_root)


def _row_check(arguments: argparse.Namespace, max_image_pixels: int | None) -> RowCheck:
    return RowCheck(arguments.min_side, max_image_pixels, decode=arguments.decode)


def _splits(
    train: str, evaluation: str | None, image_root: str | None, columns: Any = None
) -> dict[str, list[Source]]:
    for _, fault in image_root_faults(image_root):
        raise CannotRun(fault)
    splits: dict[str, list[Source]] = {}
    for name in (train, evaluation):
        try:
            splits |= {name: find_sources(name, image_root, columns=columns)} if name else {}
        except ValueError as error:
            raise CannotRun(f"{error}{nearest_file(str(name))}") from error
    return splits


def _prompts(templates: dict | str | None, system_prompt: str | None) -> PromptFormat:
    try:
        return PromptFormat(templates if isinstance(templates, dict) else {}, system_prompt)
    except ValueError as error:
        raise CannotRun(str(error)) from error
