"""What a reward function is called with: the columns that it asks for, and images that are its own."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image
from torch import nn
from trl.trainer.utils import is_async_callable

from omnirl_core.rewards import Reward
from omnirl_core.rewards.settings import signature_of

ADDED = ("images", "image_sizes", "resized_sizes")
"""Columns that the trainer adds to those of the data set."""
_HOLD_IMAGES = ("images", "image", "prompts", "prompt")


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
