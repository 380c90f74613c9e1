"""Answers of a policy to rows of any modality: greedy by default, the same in whatever batch a row stands."""

import random
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from omnirl_core.data.images import open_image
from omnirl_core.models import unpadded, vision_token_ids
from omnirl_core.trainer.fault_tolerance.image_guard import ImageCounter, ImageMismatchError, mismatch
from omnirl_core.trainer.multimodal import images_of, resized_sizes
from omnirl_core.types import Sample, Settings
from omnirl_tools.evaluation.lines import stream_keys

Size = tuple[int, int]
"""`(width, height)` in pixels."""


@dataclass(frozen=True)
class Generation:
    """One completion, with what a scorer needs to know about how it came about."""

    text: str
    """Decoded without special tokens, as the trainer hands it to the rewards."""
    token_ids: tuple[int, ...]
    """Up to and including the token that ended it."""
    clipped: bool
    """The token limit ended it, not the policy."""
    image_sizes: tuple[Size, ...] = ()
    """The row's images as opened, EXIF orientation applied."""
    resized_sizes: tuple[Size, ...] | None = ()
    """The same images as the processor showed them to the policy; None where the processor does not tell."""

    @property
    def n_tokens(self) -> int:
        return len(self.token_ids)


def generate(model: object, processor: object, rows: Sequence[Sample], **settings: Any) -> list[Generation]:
    """Return one completion per row, in the order of the rows; `settings` are those of `generate_batches`."""
    rows = list(rows)
    done: dict[int, Generation] = {}
    for places, answers in generate_batches(model, processor, rows, **settings):
        done.update(zip(places, answers, strict=True))
    return [done[place] for place in range(len(rows))]


def generate_batches(
    model: object,
    processor: object,
    rows: Sequence[Sample],
    *,
    max_new_tokens: int,
    batch_size: int = 16,
    temperature: float = 0.0,
    seed: int = 0,
    keys: Sequence[Hashable] | None = None,
    checkpoint_settings: bool = False,
    template_kwargs: Settings | None = None,
    progress: str | None = None,
) -> Iterator[tuple[list[int], list[Generation]]]:
    """Yield the places of each batch's rows and their completions, as they come.

    Rows may be text-only, have one image or many, in any mix: `prompt` is a list of messages whose content
    is a list of blocks, `images` a list of paths or PIL images in the order of the image blocks (or `image`, one of
    them). A batch whose images the model is not given raises ImageMismatchError.
    `temperature=0` is greedy; above it every row draws from its own random stream, made of `seed` and its
    key (by default `lines.stream_keys`), so that a sample does not depend on the rest of the batch
    either. With `checkpoint_settings`, what the checkpoint's own generation_config says
    (such as a repetition penalty, 1.05 for Qwen2.5-VL) applies, as where others call `generate` plainly;
    training and this evaluation leave it out. `template_kwargs` are the chat template's. `progress` is the
    label of a progress bar; None shows none.
    """
    keys = stream_keys(rows) if keys is None else keys
    tokenizer = getattr(processor, "tokenizer", processor)
    config = _generation_config(model, tokenizer, max_new_tokens, checkpoint_settings)
    bar = tqdm(total=len(rows), desc=progress, unit="row", disable=progress is None)
    with bar, _evaluating(model):
        order = longest_first(rows)
        for places in (order[start : start + batch_size] for start in range(0, len(order), batch_size)):
            batch = [rows[place] for place in places]
            names = [f"{seed}:{keys[place]}" for place in places]
            draw = partial(_RowwiseSampling, temperature, names) if temperature > 0 else None
            yield places, _generate_batch(model, processor, batch, config, draw, template_kwargs or {})
            bar.update(len(places))


@contextmanager
def images_counted(
    model: torch.nn.Module, n_images: Sequence[int], names: Sequence[str], where: str
) -> Iterator[None]:
    """Raise ImageMismatchError where the forward passes inside encode other than the samples' `n_images` in all."""
    counter = ImageCounter(model)
    try:
        yield
    finally:
        counter.remove()
    given = sum(n_images)
    if counter.disagrees(given, repeats=True):
        samples = [str(name) for name, n in zip(names, n_images, strict=True) if n]
        raise ImageMismatchError(mismatch(where, given, counter.n_images, samples))


def _generate_batch(
    model: Any,
    processor: Any,
    rows: list[dict],
    config: GenerationConfig,
    draw: Any,
    template_kwargs: Mapping[str, Any],
) -> list[Generation]:
    images = [[_open(image, row.get("row_id")) for image in images_of(row)] for row in rows]
    tokenizer = getattr(processor, "tokenizer", processor)
    inputs, resized = _encode(processor, tokenizer, rows, images, template_kwargs, model.device)
    extra = LogitsProcessorList([draw(model.device)] if draw else [])
    names = [row.get("row_id", f"{i} of the batch") for i, row in enumerate(rows)]
    with torch.no_grad(), images_counted(model, [len(own) for own in images], names, "evaluation"):
        # not synced: under ZeRO-3 transformers would wait, batch by batch, for processes that have fewer of them
        output = model.generate(
            **inputs, generation_config=config, logits_processor=extra, synced_gpus=False
        )  # (B, P+C)
    completions = output[:, inputs["input_ids"].shape[1] :].tolist()
    return [
        _generation(tokenizer, ids, config, tuple(i.size for i in own_images), sizes)
        for ids, own_images, sizes in zip(completions, images, resized, strict=True)
    ]


def _generation(
    tokenizer: Any, ids: list[int], config: GenerationConfig, sizes: tuple, resized: tuple | None
) -> Generation:
    stop = next((place for place, token in enumerate(ids) if token in config.eos_token_id), None)
    kept = ids if stop is None else ids[: stop + 1]
    text = tokenizer.decode(kept, skip_special_tokens=True)
    clipped = stop is None and len(kept) >= config.max_new_tokens
    return Generation(text, tuple(kept), clipped, sizes, resized)


def _encode(
    processor: Any,
    tokenizer: Any,
    rows: list[dict],
    images: list[list],
    template_kwargs: Mapping[str, Any],
    device: Any,
) -> tuple[dict, list]:
    """Return left-padded inputs of `generate`, and each row's resized sizes."""
    is_multimodal = hasattr(processor, "image_processor")
    conversations = [_conversation(row["prompt"], own_images) for row, own_images in zip(rows, images, strict=True)]
    if not is_multimodal:  # a plain tokenizer's template wants strings
        conversations = [[{**m, "content": _text(m["content"])} for m in turns] for turns in conversations]
    with unpadded(processor):
        fields = processor.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=True, return_dict=True, **template_kwargs
        )
    prompts = fields.pop("input_ids")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    inputs = {"input_ids": _pad_left(prompts, pad)}  # (B, P)
    inputs["attention_mask"] = _pad_left([[1] * len(ids) for ids in prompts], 0)
    fields.pop("attention_mask", None)
    for name, value in fields.items():
        is_per_token = isinstance(value, list) and isinstance(value[0], list)  # mm_token_type_ids of Qwen's family
        inputs[name] = _pad_left(value, 0) if is_per_token else torch.as_tensor(value)
    resized = _resized_sizes(processor, inputs.get("image_grid_thw"), [len(own) for own in images])
    return {name: value.to(device) for name, value in inputs.items()}, resized


def _conversation(prompt: list[dict], own_images: list[Image.Image]) -> list[dict]:
    """Put the images into the image blocks, in order; the data layer has checked that the counts agree."""
    left = iter(own_images)
    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [_block(block, left) for block in message["content"]]}
        for message in prompt
    ]


def _block(block: dict, own_images: Iterator[Image.Image]) -> dict:
    if block["type"] == "image":
        return {"type": "image", "image": next(own_images)}
    return {"type": "text", "text": block["text"]}


def _text(content: str | list[dict]) -> str:
    return content if isinstance(content, str) else "".join(b["text"] for b in content if b["type"] == "text")


def _open(image: Any, row_id: str | None) -> Image.Image:
    return image.convert("RGB") if isinstance(image, Image.Image) else open_image(image, row_id)


def _pad_left(values: list[list[int]], filler: int) -> torch.Tensor:
    longest = max(map(len, values))
    return torch.tensor([[filler] * (longest - len(row)) + list(row) for row in values])


def _resized_sizes(processor: Any, grid: torch.Tensor | None, n_images: list[int]) -> list[tuple | None]:
    """Sizes of each row's images as resized; None where the processor tells none."""
    if grid is None:
        return [None if count else () for count in n_images]
    sizes = iter(resized_sizes(grid, processor))
    return [tuple(next(sizes) for _ in range(count)) for count in n_images]


def _generation_config(model: Any, tokenizer: Any, max_new_tokens: int, checkpoint_settings: bool) -> GenerationConfig:
    """Greedy settings. transformers fills what is left out from the checkpoint's own generation_config."""
    ends = _end_token_ids(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    given = {"max_new_tokens": max_new_tokens, "do_sample": False, "eos_token_id": ends, "pad_token_id": pad}
    if not checkpoint_settings:  # so each field that changes the outcome is named, with the value that does nothing
        given |= {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_new_tokens": 0}
        given |= {"temperature": 1.0, "top_p": 1.0, "top_k": 50}
        given |= {"suppress_tokens": vision_token_ids(model.config, tokenizer) or None}
    return GenerationConfig(**given, disable_compile=True)


def _end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    declared = model.generation_config.eos_token_id
    declared = declared if isinstance(declared, list) else [declared]
    return [token for token in dict.fromkeys([tokenizer.eos_token_id, *declared]) if token is not None]


def longest_first(rows: Sequence[dict]) -> list[int]:
    """Return the places of the rows: like lengths come together, and one too big for memory fails at once."""
    return sorted(range(len(rows)), key=lambda place: _length_key(rows[place]), reverse=True)


def _length_key(row: dict) -> tuple[int, int]:
    return len(images_of(row)), sum(len(_text(message["content"])) for message in row["prompt"])


class _RowwiseSampling(LogitsProcessor):
    """Gumbel's trick: the greedy choice of `logits / T + noise` is a draw from `softmax(logits / T)`."""

    def __init__(self, temperature: float, names: list[str], device: torch.device):
        self.temperature = temperature
        self.device = device
        self.generators = [torch.Generator(device).manual_seed(random.Random(name).getrandbits(63)) for name in names]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        vocabulary = scores.shape[-1]
        draws = [torch.empty(vocabulary, device=self.device).exponential_(generator=own) for own in self.generators]
        return scores.float() / self.temperature - torch.stack(draws).log()  # (B, V)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Put every module in eval mode, then each back as it was: a frozen tower may differ from the rest."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
