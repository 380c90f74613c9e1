"""Completions with their pictures where TRL 1.16 does not show them: on TensorBoard, and wandb's pictures.

TRL gives its table of completions to wandb and trackio. trackio shows the pictures in it; wandb 0.31 keeps of a list
of pictures in a cell only the word Image.
"""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, WandbCallback

from omnirl_core.data.images import open_image
from omnirl_core.text import completion_text
from omnirl_core.trainer.callbacks import prompt_text

MOST_COMPLETIONS = 8
"""A page of them; the report has them all."""
SIDE = 256
"""Pixels of a side: trackers keep each picture as PNG."""


def show_completions(callbacks: Iterable[TrainerCallback], logged: Mapping[str, Any], step: int) -> None:
    """The first completions of a log, with pictures and rewards, on the trackers that the run reports to.

    `logged` is what the trainer keeps for its own table: prompt, completion, rewards by name, advantages, images.
    """
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            _on_tensorboard(callback.tb_writer, logged, step)
        if isinstance(callback, WandbCallback) and any(logged["images"]):
            _on_wandb(logged)


def _on_tensorboard(writer: Any, logged: Mapping[str, Any], step: int) -> None:
    for place in range(min(MOST_COMPLETIONS, len(logged["prompt"]))):
        asked, said, earned = _told(logged, place)
        text = f"**prompt**\n\n{_as_code(asked)}\n\n**completion**\n\n{_as_code(said)}\n\n{earned}"
        writer.add_text(f"completion/{place}", text, step)
        for number, picture in enumerate(_pictures(logged, place)):
            writer.add_image(
                f"completion/{place}/picture_{number}", _pixels(picture), step, dataformats="HWC"
            )
    writer.flush()


def _on_wandb(logged: Mapping[str, Any]) -> None:
    wandb: Any = import_module("wandb")
    if wandb.run is None:
        return
    shown = [
        wandb.Image(_pixels(picture), caption="\n\n".join(_told(logged, place)))
        for place in range(min(MOST_COMPLETIONS, len(logged["prompt"])))
        for picture in _pictures(logged, place)
    ]
    if shown:
        wandb.log({"completions/pictures": shown})


def _told(logged: Mapping[str, Any], place: int) -> tuple[str, str, str]:
    """Prompt, completion, and what it earned; a reward that abstained (NaN) is left out."""
    scores = {name: values[place] for name, values in logged["rewards"].items()}
    earned = [f"{name} {value:.3g}" for name, value in scores.items() if value is not None and value == value]
    prompt, completion = logged["prompt"][place], logged["completion"][place]
    advantage = f"advantage {logged['advantages'][place]:.3g}"
    return prompt_text(prompt), completion_text(completion), ", ".join([*earned, advantage])


def _pictures(logged: Mapping[str, Any], place: int) -> list[Any]:
    return list(logged["images"][place] or []) if place < len(logged["images"]) else []


def _as_code(text: str) -> str:
    """Indented, which keeps tags and line breaks as they are."""
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])


def _pixels(picture: Any) -> np.ndarray:
    image = picture if isinstance(picture, Image.Image) else open_image(picture)
    # of one size, as wandb shows pictures that belong together
    return np.asarray(ImageOps.pad(image.convert("RGB"), (SIDE, SIDE), color="white"))
