"""How long a prompt is, its image tokens included, without opening an image; and what becomes of longer ones."""

import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import datasets
from accelerate.logging import get_logger
from PIL import Image
from transformers import ProcessorMixin
from trl.data_utils import prepare_multimodal_messages

from omnirl_core.data import image_size
from omnirl_core.trainer.multimodal import (
    convert_blocks,
    images_of,
    is_no_path,
    mixed_samples,
    open_image_string,
    without_none,
)
from omnirl_core.types import JsonObject, Message, Sample

logger = get_logger(__name__)

_BATCH = 1000
_MOST_NAMED = 10
_SLIMMEST = 200  # Qwen's processors refuse sides in a ratio above this


@dataclass(frozen=True)
class PromptLength:
    """Counts the tokens of a sample's prompt as the trainer will make them; sizes of images are read from headers."""

    processor: Any
    template_kwargs: JsonObject = field(default_factory=dict)
    tools: list[Callable[..., object]] | None = None
    _frames: dict[str, int] = field(default_factory=dict, repr=False)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False)
    """(width, height) of the images seen so far, by path."""

    def count(self, sample: Sample) -> int:
        """Number of prompt tokens, exact."""
        images = prompt_images(sample)
        if images and not self._has_grid:
            return self._processed_length(sample)
        text = self._text(sample)
        tokens = self._tokenizer(text, add_special_tokens=self._adds_special_tokens(sample, text))
        placeholders = len(images)  # one token each, which the image's own replace
        return len(tokens["input_ids"]) - placeholders + self._all_image_tokens(images)

    def exceeds(self, sample: Sample, limit: int) -> bool:
        """Whether the count is above the limit; most samples are settled without a file or the tokenizer."""
        images = prompt_images(sample)
        if not images or self._has_grid:
            if self.bound(sample) <= limit:
                return False
            if images and self._text_bound(sample) + self._all_image_tokens(images) <= limit:
                return False
        return self.count(sample) > limit

    def fault(self, sample: Sample, limit: int, index: str = "") -> str | None:
        """What to say of a prompt above the limit, None of others; `index` names a sample that has no `row_id`."""
        if not self.exceeds(sample, limit):
            return None
        name, n_images = sample.get("row_id") or index, len(prompt_images(sample))
        included = f" ({n_images} image{'s' * (n_images != 1)} included)" if n_images else ""
        return f"{name}: prompt has {self.count(sample):,} tokens{included}; max_prompt_length is {limit:,}"

    def bound(self, sample: Sample) -> int:
        """Never less than the count of a sample whose images become grids: the pixel budget bounds them."""
        n_images = len(prompt_images(sample))
        most = self._most_image_tokens if n_images else 0  # a tokenizer has none
        return self._text_bound(sample) + n_images * most

    def _text_bound(self, sample: Sample) -> int:
        prompt = sample["prompt"]
        if isinstance(prompt, str):
            return _most_tokens(prompt) + 16
        texts = [block.get("text") for block in _blocks(prompt)]
        texts += [message["content"] for message in prompt if isinstance(message.get("content"), str)]
        return sum(_most_tokens(text) for text in texts if text) + self._frame(prompt) + 16

    def _frame(self, prompt: Sequence[Message]) -> int:
        """Bytes of what the template puts around the texts; the same for all prompts of one structure."""
        bare = [
            message | {"content": ""} if isinstance(message.get("content"), str) else message
            for message in convert_blocks(prompt, _without_content)
        ]
        key = repr(bare)
        if key not in self._frames:
            n_images = sum(block["type"] == "image" for block in _blocks(bare))
            self._frames[key] = len(self._text({"prompt": bare, "images": [None] * n_images}).encode())
        return self._frames[key]

    @property
    def _tokenizer(self) -> Any:
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def _has_grid(self) -> bool:
        images = getattr(self.processor, "image_processor", None)
        return hasattr(images, "merge_size") and hasattr(images, "get_number_of_image_patches")

    def _text(self, sample: Sample) -> str:
        """The rendered prompt, with one placeholder token an image."""
        messages = sample["prompt"]
        if isinstance(messages, str):
            return messages
        if isinstance(self.processor, ProcessorMixin):
            n_images = len(images_of(sample))
            messages = prepare_multimodal_messages(without_none(messages), images=[None] * n_images)
        return self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, tools=self.tools, **self.template_kwargs
        )

    def _adds_special_tokens(self, sample: Sample, text: str) -> bool:
        """As transformers 5.23 tokenizes a plain prompt, a processor's chat and a tokenizer's chat."""
        if isinstance(sample["prompt"], str):
            return True
        bos = self._tokenizer.bos_token
        return isinstance(self.processor, ProcessorMixin) and not (bos and text.startswith(bos))

    def _all_image_tokens(self, images: Sequence[Any]) -> int:
        if not images:
            return 0
        processor = self.processor.image_processor
        sizes = [self._size(image) for image in images]
        patches = [processor.get_number_of_image_patches(height, width, {}) for width, height in sizes]
        return sum(n // processor.merge_size**2 for n in patches)

    def _size(self, image: Any) -> tuple[int, int]:
        if not isinstance(image, str):
            return _size(image)
        if image not in self.sizes:
            self.sizes[image] = _size(image)
        return self.sizes[image]

    @cached_property
    def _most_image_tokens(self) -> int:
        images = self.processor.image_processor
        pixels = (images.patch_size * images.merge_size) ** 2
        low, high = images.size["shortest_edge"] / pixels, images.size["longest_edge"] / pixels
        # sides are rounded to whole tokens, at least one: that adds most where the image is slimmest
        enlarged = (math.sqrt(low * _SLIMMEST) + 1) * (math.sqrt(low / _SLIMMEST) + 1)
        return math.ceil(max(high, math.sqrt(high * _SLIMMEST), enlarged))

    def _processed_length(self, sample: Sample) -> int:
        """By the processor itself, on the opened images: families differ in what frames an image's tokens."""
        [opened] = mixed_samples([sample])
        messages = prepare_multimodal_messages(opened["prompt"], images=opened["images"])
        settings = {"tokenize": True, "return_dict": True, "tools": self.tools, **self.template_kwargs}
        tokens = self.processor.apply_chat_template([messages], add_generation_prompt=True, **settings)
        return len(tokens["input_ids"][0])


def prompt_images(sample: Sample) -> list[object]:
    """The images of the sample's columns, and those that its prompt's blocks hold themselves."""
    prompt = sample["prompt"]
    blocks = [] if isinstance(prompt, str) else _blocks(prompt)
    return images_of(sample) + [block["image"] for block in blocks if block.get("image") is not None]


def _blocks(prompt: Sequence[Message]) -> list[Mapping[str, Any]]:
    """The content blocks of all messages."""
    contents = [message.get("content") for message in prompt]
    return [block for content in contents if isinstance(content, list) for block in content]


def fit_prompts(data: Any, length: PromptLength, limit: int, on_long: str, split: str = "train") -> object:
    """The data set (or a mapping of them) without samples whose prompt has more than `limit` tokens.

    `on_long="error"` raises a ValueError that names them; `"drop"` leaves them out and logs how many. Streams
    are filtered, or refused, as they are read.
    """
    if isinstance(data, Mapping):
        return {name: fit_prompts(part, length, limit, on_long, name) for name, part in data.items()}
    if isinstance(data, datasets.IterableDataset):
        return data.filter(_StreamFilter(length, limit, on_long, split))
    if data is None:
        return None
    long = [
        (index, fault)
        for index, sample in enumerate(_light_rows(data))
        if (fault := length.fault(sample, limit, f"{split} row {index}"))
    ]
    if not long:
        return data
    if on_long == "error" or len(long) == len(data):
        raise ValueError(_listed([fault for _, fault in long], len(data)))
    message = "%s: dropped %d of %d rows, their prompts are above max_prompt_length %d: %s"
    logger.warning(message, split, len(long), len(data), limit, _listed([fault for _, fault in long[:3]]))
    dropped = {index for index, _ in long}
    return data.select([index for index in range(len(data)) if index not in dropped])


class _StreamFilter:
    def __init__(self, length: PromptLength, limit: int, on_long: str, split: str):
        self.length, self.limit, self.on_long, self.split = length, limit, on_long, split
        self.seen = self.dropped = 0

    def __call__(self, sample: Sample) -> bool:
        self.seen += 1
        fault = self.length.fault(sample, self.limit, f"{self.split} row {self.seen - 1}")
        if fault is None:
            return True
        if self.on_long == "error":
            raise ValueError(_listed([fault]))
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:  # at 1, 2, 4, 8 ...
            logger.warning("%s: dropped %d of %d rows so far; %s", self.split, self.dropped, self.seen, fault)
        return False


def _listed(faults: Sequence[str], n_samples: int | None = None) -> str:
    named = "\n".join(faults[:_MOST_NAMED])
    more = f"\n... and {len(faults) - _MOST_NAMED:,} more" if len(faults) > _MOST_NAMED else ""
    if n_samples is None:
        return named
    fix = "raise max_prompt_length, lower max_pixels, or set on_long_prompt: drop"
    if len(faults) == n_samples:
        fix = "no row is left; raise max_prompt_length or lower max_pixels"
    return f"{named}{more}\n{len(faults):,} of {n_samples:,} prompts are too long: {fix}"


def _light_rows(data: datasets.Dataset) -> Iterator[Sample]:
    """The samples as the trainer draws them, but images in Arrow columns left undecoded."""
    if data.format["type"] != "custom":
        for name, feature in data.features.items():
            if name in ("image", "images") and "Image(" in repr(feature):
                data = data.cast_column(name, _undecoded(feature))
    for start in range(0, len(data), _BATCH):
        columns = data[start : start + _BATCH]
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def _most_tokens(text: str) -> int:
    """A token is at least a byte; normalising to NFC makes at most three times as many bytes of what is not ASCII."""
    if text.isascii():
        return len(text)
    n_ascii = sum(map(str.isascii, text))
    return n_ascii + 3 * (len(text.encode()) - n_ascii)


def _without_content(block: Mapping[str, Any]) -> dict[str, str]:
    return {"type": "text", "text": ""} if block["type"] == "text" else {"type": block["type"]}


def _undecoded(feature: Any) -> Any:
    image = datasets.Image(decode=False)
    return image if isinstance(feature, datasets.Image) else datasets.List(image)


def _size(image: Any) -> tuple[int, int]:
    """(width, height) of a path, a PIL image, or an undecoded cell of an Arrow column."""
    if isinstance(image, str | os.PathLike):
        return open_image_string(os.fspath(image)).size if is_no_path(image) else image_size(image)
    if isinstance(image, Mapping):
        if image.get("bytes") is None:
            return image_size(image["path"])
        with Image.open(io.BytesIO(image["bytes"])) as opened:
            return opened.size  # EXIF could swap the two, which leaves the number of tokens as it is
    return image.size
