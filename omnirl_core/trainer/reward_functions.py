"""Reward functions as a run needs them: one that judges every sample, their weights, and what they are called with."""

import functools
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import nn
from trl.trainer.utils import is_async_callable

from omnirl_core.data import DataError
from omnirl_core.data.dataset import is_of_rows, routing
from omnirl_core.rewards import Reward
from omnirl_core.rewards.coverage import Sample, accuracy_rewards, coverage_error, used_rewards
from omnirl_core.rewards.reward import signature_of

logger = logging.getLogger(__name__)

ADDED = ("images", "image_sizes", "resized_sizes")
"""Columns that the trainer adds to those of the data set."""
_HOLD_IMAGES = ("images", "image", "prompts", "prompt")


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


def with_own_images(function: Any) -> Any:
    """The function, called with copies of images, one for each completion, so that what it draws stays there.

    Images are opened once for all completions of a prompt. A function without `**kwargs` is not given the columns
    that the trainer adds unless it names them. Reward models, and rewards that look at no image, stay as they are.
    """
    if isinstance(function, nn.Module) or (isinstance(function, Reward) and not _looks(function)):
        return function
    names = _names(function)

    if is_async_callable(function):

        @functools.wraps(function)
        async def later(**columns: Any) -> Any:
            return await function(**_own(columns, names))

        return later

    @functools.wraps(function)
    def now(**columns: Any) -> Any:
        return function(**_own(columns, names))

    return now


def _looks(reward: Reward) -> bool:
    """Whether a scorer of the reward, or of its gates, is given images."""
    expects = signature_of(reward.scorer)
    own = expects.takes_any or any(name in _HOLD_IMAGES for name in expects.keywords)
    return own or any(map(_looks, reward.gates))


def _names(function: Callable[..., Any]) -> set[str] | None:
    """Of its parameters; None where it takes any, or its signature cannot be read."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def _own(columns: Mapping[str, Any], names: set[str] | None) -> dict[str, Any]:
    given = {
        name: value for name, value in columns.items() if names is None or name in names or name not in ADDED
    }
    held = [name for name in _HOLD_IMAGES if isinstance(given.get(name), list)]
    n = max((len(given[name]) for name in held), default=0)
    copies: list[dict[int, Any]] = [{} for _ in range(n)]  # an image in `images` and in the prompt is one
    for name in held:
        given[name] = [_copied(value, copies[i]) for i, value in enumerate(given[name])]
    return given


def _copied(value: Any, copies: dict[int, Any]) -> Any:
    """The value with every image in it replaced by its copy."""
    if isinstance(value, Image.Image):
        if id(value) not in copies:
            copies[id(value)] = _copy(value)
        return copies[id(value)]
    if isinstance(value, list):
        return [_copied(item, copies) for item in value]
    if isinstance(value, dict):
        return {key: _copied(item, copies) for key, item in value.items()}
    return value


def _copy(image: Image.Image) -> Image.Image:
    copy: Any = image.copy()
    copy.format = image.format
    if getattr(image, "filename", None):
        copy.filename = image.filename  # type: ignore[attr-defined]
    return copy
