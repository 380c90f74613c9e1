"""Can every row's own reference earn full marks under the recipe's rewards?

  omnirl check-rewards recipes/mixed/demo.yaml

Writes each reference into the form that the format reward wants, boxes in the space that the box reward reads (with the
sizes that the recipe's processor gives images), and scores it as the run would. Names the rows that cannot earn
full marks, the reward, its value and why. Then shows what cheap hacks earn on some of the rows and, where one pays,
which reward pays and what to change.
A recipe's keys can be overridden as for recipes/grpo.py: --rewards mine.yaml.
Exit code 1 when a row cannot earn full marks.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from omnirl_core.boxes import SPACE_OF_MODEL_TYPE
from omnirl_core.data import DataError, Record
from omnirl_core.data.images import cores
from omnirl_core.data.sources import Source, checked_rows, find_sources
from omnirl_core.rewards import load_rewards
from omnirl_core.rewards.load import RewardsError
from omnirl_core.rewards.reference_probability import policy_rewards
from omnirl_core.rewards.reward import Reward
from omnirl_core.types import Settings
from omnirl_tools.checks.hacks import answer_frame
from omnirl_tools.checks.material import material_warnings
from omnirl_tools.checks.parallel import chunks, in_order
from omnirl_tools.checks.path_checks import Fault, data_file_faults, reward_faults
from omnirl_tools.checks.reference import box_setting, reads_boxes, reference_answers
from omnirl_tools.checks.report_file import ReportFile
from omnirl_tools.checks.reward_check import PixelGrid, RewardCheck
from omnirl_tools.checks.reward_report import RewardReport
from omnirl_tools.commands import CannotRun
from omnirl_tools.commands.config_file import drawn_temporarily
from omnirl_tools.commands.recipe import Recipe, read_recipe
from omnirl_tools.default_rewards import default_rewards

TAKES_OVERRIDES = True
CHUNK = 64
HEAD = 256
"""Rows from which wrong answers are taken for the hack that lists some."""
HACKED = 5
"""Rows of each task on which hacks are tried."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a recipe's YAML")
    parser.add_argument("--workers", type=int, default=cores(), help="processes (default %(default)s)")
    parser.add_argument(
        "--report", type=Path, help="write every fault to this file; default check_rewards.txt in output_dir"
    )


def run(arguments: argparse.Namespace) -> int:
    recipe = read_recipe(arguments.config, arguments.overrides, [data_file_faults, _reward_faults])
    try:
        with drawn_temporarily(recipe.data) as data:
            return _checked(arguments, replace(recipe, data=data))
    except DataError as error:
        raise CannotRun(f"{error}\nomnirl check-data {arguments.config} names every bad row") from error


def _reward_faults(values: Settings) -> Iterator[Fault]:
    return reward_faults(values.get("rewards"))


def _checked(arguments: argparse.Namespace, recipe: Recipe) -> int:
    rewards, sources = _rewards(recipe), _sources(recipe)
    processor = recipe.processor()
    tokenizer = getattr(processor, "tokenizer", processor)
    check = RewardCheck(rewards, PixelGrid.of(processor), _Tokens(tokenizer), recipe.training.max_completion_length)
    report = arguments.report or Path(str(recipe.training.output_dir)) / "check_rewards.txt"
    found = RewardReport(report, rewards)
    rows = _picked(sources, recipe)
    head = list(islice(rows, HEAD))
    check.decoys = _decoys(head)
    check.frame = answer_frame([answer for record, _ in head for answer in _answers(record)[:1]])
    graded = in_order(check.many, chunks(chain(head, rows), CHUNK), arguments.workers)
    with (
        ReportFile(report, asked=arguments.report is not None) as file,
        tqdm(desc="rows", unit="", disable=not sys.stderr.isatty()) as bar,
    ):
        for chunk in graded:
            for row in chunk:
                found.add(row, file)
                bar.update()
    warnings = [
        *_space_warnings(recipe, rewards),
        *_policy_notes(rewards),
        *material_warnings(rewards, [record for record, _ in head]),
    ]
    print("\n\n".join([str(found), *warnings]))
    return int(found.bad_rows > 0)


def _rewards(recipe: Recipe) -> list[Reward]:
    try:
        path = recipe.data.rewards
        return load_rewards(path) if path else default_rewards(recipe.data, recipe.model_path)
    except (RewardsError, ValueError, OSError) as error:
        raise CannotRun(str(error)) from error


def _sources(recipe: Recipe) -> list[Source]:
    try:
        columns: Any = recipe.data.columns  # a mapping since __post_init__
        return find_sources(recipe.data.dataset_name, recipe.data.image_root, columns=columns)
    except DataError as error:
        raise CannotRun(str(error)) from error


def _picked(sources: list[Source], recipe: Recipe) -> Iterator[tuple[Record, bool]]:
    """The readable rows; True beside the first few of each task, on which hacks are tried."""
    seen: dict[str | None, int] = {}
    outside = recipe.data.allow_outside_image_root
    for row in checked_rows(sources, seed=recipe.training.seed, allow_outside_image_root=outside):
        if isinstance(row, Record):
            seen[row.task] = seen.get(row.task, 0) + 1
            yield row, seen[row.task] <= HACKED
        elif recipe.data.on_bad_sample == "error":
            raise row


def _decoys(rows: list[tuple[Record, bool]]) -> tuple[str, ...]:
    answers = [_answers(record) for record, picked in rows if picked]
    return tuple(dict.fromkeys(found[0] for found in answers if found))[:4]


def _answers(record: Record) -> list[str]:
    return reference_answers(record.solution, (), (), ())


def _space_warnings(recipe: Recipe, rewards: list[Reward]) -> list[str]:
    """Box rewards that read another space than the model family answers in."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        recipe.model_path,
        revision=recipe.model.model_revision,
        trust_remote_code=recipe.training.trust_remote_code,
    )
    usual = SPACE_OF_MODEL_TYPE.get(config.model_type)
    return [
        f"warning: {reward.name} reads boxes in space {box_setting(reward, 'space')!r}; {config.model_type} answers in "
        f"{usual!r} (docs/boxes.md)"
        for reward in rewards
        if usual and reads_boxes(reward) and box_setting(reward, "space") != usual
    ]


def _policy_notes(rewards: list[Reward]) -> list[str]:
    return [
        f"note: {reward.name} asks the policy, which only training does; here its references are read and not scored"
        for reward in policy_rewards(rewards)
    ]


class _Tokens:
    """The ids of a completion; a class, so that workers can be given it."""

    def __init__(self, tokenizer: object):
        self.tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[operator]
