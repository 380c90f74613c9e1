"""A rewards.yaml to begin with, from what the references of the data look like.

  omnirl suggest-rewards train.jsonl
  omnirl suggest-rewards train.parquet --columns '{problem: question, solution: answer}' --output my/rewards.yaml

Names the judge of each task with the share of samples that led to it. What the samples do not tell is printed, and
written as a comment. Check the file on all samples: `omnirl check-rewards RECIPE --rewards rewards.yaml`.
Exit code 1 when something is unclear.
"""

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

from omnirl_core.boxes import SPACES
from omnirl_core.data import DataError
from omnirl_core.data.images import RowRules
from omnirl_core.data.sources import find_sources, read_records
from omnirl_core.types import nearest_file
from omnirl_core.yaml_loader import read_mapping
from omnirl_tools.commands import CannotRun
from omnirl_tools.commands.config_file import read_settings
from omnirl_tools.suggest_rewards import suggest

READ = 100_000
"""Samples that are read, from the start of the data."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="a data file, a mixture or a hub name (docs/data.md)")
    parser.add_argument("--columns", help="our names of the data's columns: '{problem: question, solution: answer}'")
    parser.add_argument("--image_root", help="folder that image paths are relative to")
    parser.add_argument("--space", choices=SPACES, help="how the policy writes boxes and points (docs/boxes.md)")
    parser.add_argument(
        "--output", type=Path, default=Path("rewards.yaml"), help="file to write (default %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output
    if output.suffix not in (".yaml", ".yml"):
        raise CannotRun(f"{output} is no .yaml file; name the rewards.yaml to write")
    if output.exists():
        raise CannotRun(f"{output}: there already; name another file with --output, or remove it")
    if arguments.data.endswith((".yaml", ".yml")) and Path(arguments.data).is_file():
        named = read_settings(arguments.data).get("dataset_name")
        if named:
            raise CannotRun(f"{arguments.data} is a recipe; give its data: {named}")
    try:
        columns: Any = read_mapping(arguments.columns) if arguments.columns else None
        sources = find_sources(arguments.data, arguments.image_root, columns=columns)
        records = list(islice(read_records(sources, RowRules()), READ))
    except DataError as error:
        raise CannotRun(f"{error}{nearest_file(arguments.data)}") from error
    except ValueError as error:
        raise CannotRun(f"--columns: {error}") from error
    found = suggest(records, arguments.space)
    if not found.yaml_text:
        raise CannotRun("no reward fits these samples: " + "; ".join(found.unclear))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise CannotRun(f"{output}: {output.parent} is a file; name another place with --output") from error
    with output.open("x", encoding="utf-8") as file:
        file.write(found.yaml_text)
    for task, scorers in found.judges.items():
        print(f"{'all samples' if task is None else task}: {', '.join(scorers)}")
    print("\n".join(["", f"written: {output}", *(f"unclear: {text}" for text in found.unclear)]))
    return int(bool(found.unclear))
