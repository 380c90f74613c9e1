"""Rewards and prompt of a run that names none, from what its rows' answers are: boxes or text."""

import logging
from itertools import islice
from typing import Any

from transformers import AutoConfig

from omnirl_core.boxes import default_space
from omnirl_core.config import DataArguments
from omnirl_core.data.images import RowRules
from omnirl_core.data.sources import find_sources, read_records
from omnirl_core.rewards.answers.answers import is_box
from omnirl_core.rewards.registry import scorer_named
from omnirl_core.rewards.reward import Reward

logger = logging.getLogger(__name__)

SEEN = 200
"""Rows that are looked at, from the start of the data."""


def default_rewards(data: DataArguments, policy: str) -> list[Reward]:
    """For boxes what recipes/rec has, with its prompt; for text the unified accuracy. ValueError for a mix of both.

    A box is judged in the coordinate space that the policy's family answers in.
    """
    rules = RowRules(allow_outside_image_root=data.allow_outside_image_root)
    columns: Any = data.columns  # a mapping since __post_init__
    sources = find_sources(data.dataset_name, data.image_root, columns=columns)
    records = islice(read_records(sources, rules), SEEN)
    boxes = [is_box(record.solution) for record in records]
    if any(boxes) and not all(boxes):
        raise ValueError(
            f"rewards: not set, and of the first {len(boxes)} rows of {data.dataset_name} {sum(boxes)} have boxes for "
            "answers and the others have not; copy recipes/rewards/mixed.yaml and give the rows tasks"
        )
    form, judge = (_rec if all(boxes) else _text)(policy)
    if all(boxes) and data.templates is None:
        data.templates = {"default": "rec_r1"}
    settings = ", ".join(f"{name}: {value}" for name, value in judge.settings.items())
    logger.warning(
        "rewards: not set; the answers are %s, so %s judges them (%s) and %s (weight %s) their form",
        "boxes" if all(boxes) else "texts", judge.name, settings, form.name, form.weight,
    )  # fmt: skip
    return [form, judge]


def _rec(policy: str) -> tuple[Reward, Reward]:
    space = default_space(AutoConfig.from_pretrained(policy).model_type)
    judge = Reward("box_iou", scorer_named("box_iou"), settings={"space": space, "pick": "only"})
    return Reward("think_format", scorer_named("think_format"), weight=0.1), judge


def _text(policy: str) -> tuple[Reward, Reward]:
    judge = Reward("overlap", scorer_named("overlap"), settings={"power": 2})
    return Reward("think_format", scorer_named("think_format"), weight=0.2), judge
