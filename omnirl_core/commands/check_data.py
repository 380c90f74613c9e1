"""Check every row and picture before a run: a recipe's YAML, or a data file.

  omnirl check-data recipes/mixed/demo.yaml
  omnirl check-data train.jsonl --image_root images --eval_dataset_name test.jsonl

Rows: format, keys, placeholders, missing pictures. Pictures: cannot be opened, cut short (--decode reads every
pixel and finds damage in the middle too), too small, too large, too slim. With a recipe that sets max_prompt_length:
prompts that are too long, image tokens included. Training rows that are in the evaluation rows too.
A recipe's keys can be overridden as for recipes/grpo.py: --max_prompt_length 512.
Exit code 1 when a row is bad; every one of them is in the report, one a line, as file:line.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from omnirl_core.checks.data import check_data
from omnirl_core.checks.parallel import WorkerDied, cores
from omnirl_core.checks.row_check import MIN_SIDE, RowCheck
from omnirl_core.commands import CannotRun
from omnirl_core.commands.config_file import read_settings
from omnirl_core.data import DataError, PromptFormat
from omnirl_core.data.sources import Source, find_sources

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="CONFIG|DATA", help="a recipe's YAML, or a .json, .jsonl or mixture file"
    )
    parser.add_argument("--image_root", help="folder that image paths are relative to")
    parser.add_argument("--eval_dataset_name", help="evaluation rows, checked too and for duplicates")
    parser.add_argument(
        "--decode", action="store_true", help="decode every picture: slower, and nothing is missed"
    )
    parser.add_argument(
        "--min_side", type=int, help=f"least pixels of a side (default {MIN_SIDE}, or the processor's)"
    )
    parser.add_argument(
        "--max_image_pixels", type=int, default=Image.MAX_IMAGE_PIXELS, help="(default %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=cores(), help="processes (default %(default)s)")
    parser.add_argument("--report", type=Path, help="default check_data.txt, in the recipe's output_dir")


def run(arguments: argparse.Namespace) -> int:
    if _is_recipe(arguments.source):
        splits, check, report, seed = _of_recipe(arguments)
    else:
        if arguments.overrides:
            raise CannotRun(f"{arguments.overrides[0]}: only a recipe's keys can be overridden")
        splits, check, report, seed = _of_file(arguments)
    check.decode, check.max_image_pixels = arguments.decode, arguments.max_image_pixels
    with tqdm(desc="rows", unit="", disable=not sys.stderr.isatty()) as bar:
        try:
            found = check_data(splits, check, report, workers=arguments.workers, seed=seed, on_row=bar.update)
        except WorkerDied as error:
            rows = [getattr(row, "source", row) for row in error.chunk]
            reason = "a picture crashes Pillow, or memory ran out; --workers 1 shows where"
            raise CannotRun(f"a worker died between {rows[0]} and {rows[-1]}: {reason}") from error
    print(found)
    return int(bool(found.faults))


def _is_recipe(source: str) -> bool:
    return source.endswith((".yaml", ".yml")) and "dataset_name" in read_settings(source)


def _of_recipe(arguments: argparse.Namespace) -> tuple[dict[str, list[Source]], RowCheck, Path, int]:
    from omnirl_core.commands.recipe import read_recipe  # with it comes TRL, which takes seconds
    from omnirl_core.run import draw_missing
    from omnirl_core.trainer.prompt_length import PromptLength

    overrides = list(arguments.overrides)
    for name in ("image_root", "eval_dataset_name"):
        if getattr(arguments, name):
            overrides += [f"--{name}", getattr(arguments, name)]
    recipe = read_recipe(arguments.source, overrides)
    draw_missing(recipe.data)
    splits = _splits(recipe.data.dataset_name, recipe.data.eval_dataset_name, recipe.data.image_root)
    check = RowCheck(prompts=_prompts(recipe.data.templates, recipe.data.system_prompt))
    limit = recipe.training.max_prompt_length
    if limit is not None or arguments.min_side is None:
        processor = recipe.processor()
        check.min_side = _token_side(processor)
        check.length = PromptLength(processor, recipe.template_kwargs)
        check.max_prompt_length = limit
    check.min_side = check.min_side if arguments.min_side is None else arguments.min_side
    report = arguments.report or Path(str(recipe.training.output_dir)) / "check_data.txt"
    return splits, check, report, recipe.training.seed


def _of_file(arguments: argparse.Namespace) -> tuple[dict[str, list[Source]], RowCheck, Path, int]:
    splits = _splits(arguments.source, arguments.eval_dataset_name, arguments.image_root)
    check = RowCheck(min_side=MIN_SIDE if arguments.min_side is None else arguments.min_side)
    return splits, check, arguments.report or Path("check_data.txt"), 0


def _splits(train: str, evaluation: str | None, image_root: str | None) -> dict[str, list[Source]]:
    try:
        return {name: find_sources(name, image_root) for name in (train, evaluation) if name}
    except DataError as error:
        raise CannotRun(str(error)) from error


def _prompts(templates: dict | str | None, system_prompt: str | None) -> PromptFormat:
    try:
        return PromptFormat(templates if isinstance(templates, dict) else {}, system_prompt)
    except ValueError as error:
        raise CannotRun(str(error)) from error


def _token_side(processor: object) -> int:
    """Pixels of one image token's side, 1 where the processor has no grid of patches."""
    images = getattr(processor, "image_processor", None)
    return getattr(images, "patch_size", 1) * getattr(images, "merge_size", 1) if images is not None else 1
