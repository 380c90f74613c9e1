"""Completions of a run: the lines of completions.jsonl, the trackers, and the model card.

TRL 1.16 gives its table of completions to wandb and trackio. trackio shows the images in it; wandb 0.31 keeps of a list
of images in a cell only the word Image, and TensorBoard gets nothing.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import count
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.utils import gather_object
from PIL import Image, ImageOps
from torch import Tensor
from transformers import PreTrainedConfig, TrainerCallback
from transformers.integrations import TensorBoardCallback, WandbCallback
from trl.trainer.utils import get_config_model_id

from omnirl_core.data.images import open_image
from omnirl_core.rewards.grounding import box_reading
from omnirl_core.text import completion_text, content_text
from omnirl_core.trainer.multimodal import images_of
from omnirl_core.types import Completion, Line, Message, Sample, Settings

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

MOST_COMPLETIONS = 8
"""A page of them; the report has them all."""
SIDE = 256
"""Pixels of a side: trackers keep each image as PNG."""
LONGEST_PATH = 4096
"""Characters of a path that Linux takes; image strings above it are the image itself."""


def completion_lines(
    samples: Sequence[Sample],
    completions: Sequence[Completion],
    rewards: Mapping[str, Sequence[float]],
    advantages: Sequence[float],
    step: int,
    phase: str,
    details: Sequence[Line] | None = None,
) -> list[Line]:
    """One line for each completion: the sample as it is in the data set, and what the completion earned.

    `details` is what else is known of each: its tokens, the sizes of its images, how its boxes are read.
    """
    return [
        {
            "step": step,
            "phase": phase,
            "row_id": sample.get("row_id"),
            "task": sample.get("task"),
            "images": [_image_path(image) for image in images_of(sample)],
            "problem": sample.get("problem"),
            "prompt": prompt_text(sample.get("prompt", "")),
            "solution": sample.get("solution"),
            "completion": completion_text(completion),
            # an abstention is NaN, which is no JSON
            "rewards": {name: None if math.isnan(v[i]) else round(v[i], 6) for name, v in rewards.items()},
            "advantage": round(advantages[i], 6),
            **(details[i] if details else {}),
        }
        for i, (sample, completion) in enumerate(zip(samples, completions, strict=True))
    ]


def prompt_text(prompt: str | Sequence[Message]) -> str:
    """A prompt as one reads it: `<image>` for an image; roles only where there are several turns.

    >>> prompt_text([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}])
    '<image>What is it?'
    """
    if isinstance(prompt, str):
        return prompt
    turns = [(message["role"], content_text(message, "<image>")) for message in prompt]
    return turns[0][1] if len(turns) == 1 else "\n".join(f"{role}: {text}" for role, text in turns)


def distinct_names(names: Sequence[str]) -> list[str]:
    """Each name once: a second reward of one name is `name_2`.

    >>> distinct_names(["exact", "format", "exact"])
    ['exact', 'format', 'exact_2']
    """
    found: list[str] = []
    for name in names:
        candidates = (name if n == 1 else f"{name}_{n}" for n in count(1))
        found.append(next(one for one in candidates if one not in found))
    return found


def _image_path(image: Any) -> str | None:
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        return path if len(path) <= LONGEST_PATH else None  # pixels in base64, not a path
    return getattr(image, "filename", None) or None  # a PIL image knows its file if it was opened from one


def batch_lines(trainer: "OmniGRPOTrainer", samples: Sequence[Sample], advantages: Tensor) -> list[Line]:
    """The lines of a trainer's generation batch on this rank: `samples` as they came, `advantages` (B*G,).

    With the rewards' weights, by which reports of runs without held-out samples score completions, and, of each
    completion, its length, whether it is clipped, as TRL counts it, the sizes of its images, and how a reward that did
    not abstain reads boxes in it.
    """
    first = trainer.accelerator.process_index * len(samples)
    own = trainer._rewards[first : first + len(samples)].tolist()  # (B*G, K)
    names = distinct_names(trainer.reward_func_names)
    values = zip(names, trainer.reward_weights.tolist(), strict=True)
    weights = {name: round(weight, 6) for name, weight in values}
    ends = (*trainer.eos_token_ids, trainer._tokenizer.pad_token_id)
    details, readings = [], [box_reading(reward) for reward in trainer.reward_funcs]
    for sample, ids, earned in zip(trainer._samples, trainer._completion_ids, own, strict=True):
        detail: dict[str, Any] = {"weights": weights, "n_tokens": len(ids)}
        detail["clipped"] = not ids or ids[-1] not in ends
        if images_of(sample):
            detail |= {name: sample.get(name) for name in ("image_sizes", "resized_sizes")}
        judging = (reading for reading, value in zip(readings, earned, strict=True) if value == value)
        boxes = next((reading for reading in judging if reading), None)
        details.append(detail | ({"boxes": boxes} if boxes else {}))
    training = trainer.model.training
    return completion_lines(
        samples,
        trainer._completions,
        {name: [rewards[k] for rewards in own] for k, name in enumerate(names)},
        advantages.tolist(),
        step=trainer.state.global_step + training,  # the step that learns from them
        phase="train" if training else "eval",
        details=details,
    )


@contextmanager
def no_images_gathered(trainer: "OmniGRPOTrainer") -> Iterator[None]:
    """TRL 1.16 gathers images on ranks that have some, which hangs when another has none; see `log_images`."""
    given, trainer.log_multimodal = trainer.log_multimodal, trainer.log_multimodal and not trainer._is_vlm
    try:
        yield
    finally:
        trainer.log_multimodal = given


def log_images(trainer: "OmniGRPOTrainer") -> None:
    """The images of a mixed batch, for TRL's table."""
    if trainer._is_mixed and trainer.log_multimodal and trainer.log_completions:
        images = trainer._images or [images_of(sample) for sample in trainer._samples]
        trainer._logs["images"].extend(gather_object(images))


def as_text(logged: Settings) -> None:
    """Prompts and completions of TRL's table, in place."""
    for name, read in (("prompt", prompt_text), ("completion", completion_text)):
        texts = [read(item) for item in logged[name]]
        logged[name].clear()
        logged[name].extend(texts)


def show_completions(callbacks: Iterable[TrainerCallback], logged: Settings, step: int) -> None:
    """The first completions of a log, with images and rewards, on the trackers that the run reports to.

    `logged` is what the trainer keeps for its own table: prompt, completion, rewards by name, advantages, images.
    """
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            _on_tensorboard(callback.tb_writer, logged, step)
        if isinstance(callback, WandbCallback) and any(logged["images"]):
            _on_wandb(logged)


def _on_tensorboard(writer: Any, logged: Mapping[str, Any], step: int) -> None:
    for index in range(min(MOST_COMPLETIONS, len(logged["prompt"]))):
        asked, said, earned = _texts_of(logged, index)
        asked, said = (indent(text, "    ", lambda line: True) for text in (asked, said))  # tags stay as they are
        text = f"**prompt**\n\n{asked}\n\n**completion**\n\n{said}\n\n{earned}"
        writer.add_text(f"completion/{index}", text, step)
        for number, image in enumerate(_logged_images(logged, index)):
            writer.add_image(f"completion/{index}/picture_{number}", _pixels(image), step, dataformats="HWC")
    writer.flush()


def _on_wandb(logged: Mapping[str, Any]) -> None:
    wandb: Any = import_module("wandb")
    if wandb.run is None:
        return
    shown = [
        wandb.Image(_pixels(image), caption="\n\n".join(_texts_of(logged, index)))
        for index in range(min(MOST_COMPLETIONS, len(logged["prompt"])))
        for image in _logged_images(logged, index)
    ]
    if shown:
        wandb.log({"completions/pictures": shown})


def _texts_of(logged: Mapping[str, Any], index: int) -> tuple[str, str, str]:
    """Prompt, completion, and what it earned; a reward that abstained (NaN) is left out."""
    scores = {name: values[index] for name, values in logged["rewards"].items()}
    earned = [f"{name} {value:.3g}" for name, value in scores.items() if value is not None and value == value]
    prompt, completion = logged["prompt"][index], logged["completion"][index]
    advantage = f"advantage {logged['advantages'][index]:.3g}"
    return prompt_text(prompt), completion_text(completion), ", ".join([*earned, advantage])


def _logged_images(logged: Mapping[str, Any], index: int) -> list[Any]:
    return list(logged["images"][index] or []) if index < len(logged["images"]) else []


def _pixels(image: Any) -> np.ndarray:
    opened = image if isinstance(image, Image.Image) else open_image(image)
    # of one size, as wandb shows images that belong together
    return np.asarray(ImageOps.pad(opened.convert("RGB"), (SIDE, SIDE), color="white"))


def mend_model_card(folder: str | os.PathLike[str], config: PreTrainedConfig) -> None:
    """Say in `folder`/README.md what TRL 1.16 leaves as None: the policy that was trained, and where to load it."""
    card = Path(folder) / "README.md"
    policy = Path(get_config_model_id(config) or "").name
    before = f"a checkpoint from a folder (`{policy}`)" if policy else "a model that was made in the run"
    text = card.read_text(encoding="utf-8")
    text = text.replace("[None](https://huggingface.co/None)", before)
    text = text.replace('model="None"', f'model="{os.fspath(folder)}"')
    card.write_text(text, encoding="utf-8")
