"""Rewards as a run needs them: one that judges every sample, and the weights that the rewards themselves have."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from omnirl_core.data import DataError
from omnirl_core.data.dataset import is_of_rows, routing
from omnirl_core.rewards import Reward
from omnirl_core.rewards.coverage import Sample, accuracy_rewards, coverage_error, used_rewards

logger = logging.getLogger(__name__)


def fit_rewards(reward_funcs: Any, train_dataset: Any, eval_dataset: Any = None) -> Any:
    """The rewards that the samples need: without those for samples that name no task, where there are none.

    Looks at data sets of `load_dataset` and rewards of `load_rewards`; all else is given back as it is.

    Raises:
        DataError: some samples have no reward that judges their answer.
    """
    rewards = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    if not rewards or not is_of_rows(train_dataset) or not all(isinstance(one, Reward) for one in rewards):
        return reward_funcs
    samples = [Sample(*row) for row in routing(train_dataset)]
    if error := coverage_error(samples, rewards):
        raise DataError(error)
    if not accuracy_rewards(rewards):
        names = ", ".join(one.name for one in rewards)
        logger.warning("no reward judges whether an answer is right, only how it is written: %s", names)
    tasks = {one.task for one in samples}
    if is_of_rows(eval_dataset):
        tasks |= {task for _, task, _ in routing(eval_dataset)}
    return used_rewards(rewards, tasks)


def reward_weights(reward_funcs: Sequence[Any], given: Sequence[float] | None) -> torch.Tensor:
    """(K,) `given` where it is, else each `Reward`'s own weight and 1 for other functions.

    Logs where a given weight differs from one that a reward was given itself (its default is 1).
    """
    own = [one.weight if isinstance(one, Reward) else 1.0 for one in reward_funcs]
    if given is None:
        return torch.tensor(own, dtype=torch.float32)
    weighted = [
        f"{one.name} {weight:g} (its own {one.weight:g})"
        for one, weight in zip(reward_funcs, given, strict=False)
        if isinstance(one, Reward) and one.weight not in (1.0, weight)
    ]
    if weighted and all(isinstance(one, Reward) for one in reward_funcs):
        logger.warning("reward_weights overrides the rewards' own weights: %s", ", ".join(weighted))
    return torch.tensor(list(given), dtype=torch.float32)


def kept_weights(reward_funcs: Any, fitted: Any, given: list[float] | None) -> list[float] | None:
    """`given` without the weights of the rewards that `fit_rewards` left out."""
    if given is None or not isinstance(reward_funcs, list) or len(given) != len(reward_funcs):
        return given
    kept = {id(one) for one in fitted}
    return [weight for one, weight in zip(reward_funcs, given, strict=True) if id(one) in kept]


def reweighted(rewards: Sequence[Reward], given: Sequence[float] | None) -> list[Reward]:
    """The rewards with the weights that `reward_weights` gives, so that held-out scores use them too."""
    if given is None:
        return list(rewards)
    if len(given) != len(rewards):
        raise DataError(
            f"reward_weights: {len(given)} weights for {len(rewards)} rewards; give one each, or none"
        )
    reward_weights(rewards, given)
    return [replace(one, weight=float(weight)) for one, weight in zip(rewards, given, strict=True)]
