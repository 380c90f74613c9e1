"""Samples of a mixed run, text-only, one image or many, in one shape; every image opened once a batch."""

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from torch import Tensor, nn
from transformers import ProcessorMixin
from transformers.image_utils import load_image
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.grpo_trainer import GRPOTrainer, RewardFunc
from trl.trainer.utils import is_async_callable

from omnirl_core.data import DataError, open_image
from omnirl_core.data.dataset import transform_of
from omnirl_core.models import vision_token_ids
from omnirl_core.rewards import Reward
from omnirl_core.rewards.reward import is_ours, signature_of
from omnirl_core.types import Message, ModelInputs, Sample, Settings

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

URL_TIMEOUT_S = 60.0
ADDED = ("images", "image_sizes", "resized_sizes", "reference_probabilities")
"""Columns that the trainer adds to those of the data set."""
_HOLD_IMAGES = ("images", "image", "prompts", "prompt")
_BASE64 = re.compile(r"(?:iVBORw0K|/9j/|R0lGOD|UklGR|Qk|SUkq|TU0A)[A-Za-z0-9+/\s]{64,}={0,2}\s*\Z")
"""PNG, JPEG, GIF, WebP, BMP and TIFF begin so."""


def images_of(sample: Sample) -> list[object]:
    """The sample's images, paths or PIL images: from `images`, or the one in `image`; [] for a text-only sample.

    >>> images_of({"images": None}), images_of({"image": "a.png"}), images_of({"images": ["a.png", "b.png"]})
    ([], ['a.png'], ['a.png', 'b.png'])
    """
    images = sample.get("images") or sample.get("image")
    if images is None:
        return []
    return list(images) if isinstance(images, list | tuple) else [images]


def mixed_samples(inputs: Sequence[Sample]) -> list[Sample]:
    """Copies of the samples as TRL can take any mix of them, with the images opened.

    TRL 1.16 looks for the image columns in the first sample only, takes `None` for no images, which processors
    refuse, and cannot log string and block contents in one table; so every sample gets `images` (a list of PIL
    images) and a prompt of content blocks. Rewards also find `image_sizes` there, (width, height) of each
    image, and `resized_sizes`, which the trainer fills in when the processor has resized them. A path that
    occurs in several samples, as in the samples of a group, is opened once.
    """
    opened: dict[str, Image.Image] = {}
    return [_mixed_sample(sample, opened) for sample in inputs]


def text_samples(inputs: Sequence[Sample]) -> list[Sample]:
    """The samples of a run without images, its image columns, if it has some, in the one form that TRL 1.16 takes."""
    return [{**sample, "images": []} if "images" in sample or "image" in sample else sample for sample in inputs]


def _mixed_sample(sample: Sample, opened: dict[str, Image.Image]) -> Sample:
    images = [_opened(image, opened, sample.get("row_id")) for image in images_of(sample)]
    prompt = sample["prompt"]
    if not isinstance(prompt, str):  # a plain string has no place for images: TRL says so where there are some
        prompt = without_none(prompt)
        prompt = prompt if images else prepare_multimodal_messages(prompt)
    sizes = [getattr(image, "size", None) for image in images]
    added = {"images": images, "image_sizes": sizes, "resized_sizes": None if images else []}
    # a data set's own columns of these names are the user's
    return {**sample, "prompt": prompt, **{k: v for k, v in added.items() if k == "images" or k not in sample}}


def _opened(image: Any, opened: dict[str, Image.Image], row_id: str | None) -> Any:
    if not isinstance(image, str | os.PathLike):
        return image
    path = os.fspath(image)
    if path not in opened:
        opened[path] = open_image_string(path, row_id)
    return opened[path]


def open_image_string(image: str, row_id: str | None = None) -> Image.Image:
    """As `open_image`, also for the other strings that TRL takes: a URL, a `data:` URI, the file in base64."""
    if not is_no_path(image):
        return open_image(image, row_id)
    try:
        return load_image(image, timeout=URL_TIMEOUT_S)
    except Exception as error:
        raise DataError(
            f"{row_id or 'image'}: image {image[:80]!r} is no URL, data: URI or base64 string that can be read: "
            f"{str(error)[:200]}"
        ) from error


def is_no_path(image: str | os.PathLike[str]) -> bool:
    """Whether an image string is a URL, a `data:` URI or a file in base64, as its first characters tell.

    >>> is_no_path("https://a.org/b.png"), is_no_path("data:image/png;base64,iVBORw0K"), is_no_path("iVBORw0K.png")
    (True, True, False)
    """
    text = os.fspath(image)
    return text.startswith(("http://", "https://", "data:image/")) or bool(
        _BASE64.match(text) and not os.path.isfile(text[:4096])
    )


def counted_by_sample(fields: Settings) -> ModelInputs:
    """The fields of a batch such that TRL 1.16 slices padded images by sample, as they are laid out.

    Idefics and SmolVLM pad the images of every sample to one number, (samples, images, ...), with a mask. TRL takes
    that for one line an image where samples and images happen to be as many, and gives samples each other's images
    or fails. Counts of zero, which nothing else of these families reads, leave it the one right way.
    """
    padded = fields.get("pixel_attention_mask") is not None and fields.get("spatial_shapes") is None
    return {**fields, "num_images": [0] * len(fields["num_images"])} if padded else dict(fields)


def check_image_inputs(trainer: "OmniGRPOTrainer") -> None:
    """ValueError where images come with inputs that TRL's log-probability pass does not hand to the model.

    Of transformers 5.24 that is LLaVA-OneVision, whose model sees several images of a sample otherwise than one.
    """
    images = getattr(trainer.processing_class, "image_processor", None)
    unused = getattr(trainer.processing_class, "unused_input_names", ())
    taken = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    lost = [name for name in getattr(images, "model_input_names", ()) if name not in (*taken, *unused)]
    if lost and trainer._is_mixed:
        kind = trainer.model.config.model_type
        raise ValueError(
            f"model_type {kind!r}: its images come with {', '.join(lost)}, which TRL does not hand to the model; take "
            "a family of docs/models.md, or samples without images"
        )


def check_tool_images(trainer: "OmniGRPOTrainer", has_tool_images: bool) -> None:
    """ValueError where a tool brought an image into an answer of a family whose placeholders TRL 1.16 does not know.

    It marks `<|image_pad|>` and `<|image|>`, and hands on images that come with a grid of patches.
    """
    if not has_tool_images:
        return
    names = getattr(trainer.processing_class.image_processor, "model_input_names", ())
    if trainer._image_pad_token_id is None or "image_grid_thw" not in names:
        kind = trainer.model.config.model_type
        raise ValueError(
            f"a tool returned an image, and of model_type {kind!r} TRL does not know the image tokens in an answer; "
            "have the tool return text, or take Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5 or GLM-4.1V"
        )


def resized_sizes(grid: Tensor, processor: ProcessorMixin) -> list[tuple[int, int]]:
    """(width, height) of each image as the policy sees it, from the patches that its processor counts: (images, 3)."""
    side = processor.image_processor.patch_size
    return [(int(width) * side, int(height) * side) for _, height, width in grid.tolist()]


def note_resized_sizes(samples: Sequence[Sample], fields: Settings, processor: ProcessorMixin) -> None:
    """Tell rewards the size at which the policy sees each image."""
    grid = fields.get("image_grid_thw")
    if grid is None or len(grid) != sum(len(images_of(sample)) for sample in samples):
        return
    sizes = iter(resized_sizes(grid, processor))
    for sample in samples:
        resized = [next(sizes) for _ in images_of(sample)]
        if sample.get("resized_sizes", ...) is None:
            sample["resized_sizes"] = resized


def suppress_vision_tokens(trainer: "OmniGRPOTrainer") -> None:
    """TRL 1.16 keeps one image token from being sampled, and only where transformers generates."""
    ids = vision_token_ids(trainer.model.config, trainer._tokenizer)
    if trainer.use_vllm:
        kwargs = dict(trainer.vllm_generation.generation_kwargs)
        bias = {**(kwargs.get("logit_bias") or {}), **dict.fromkeys(ids, -100)}
        trainer.vllm_generation.generation_kwargs = {**kwargs, "logit_bias": bias}
    else:
        ids = sorted({*ids, *(trainer.generation_kwargs.get("suppress_tokens") or [])})
        trainer.generation_kwargs["suppress_tokens"] = trainer.generation_config.suppress_tokens = ids


def without_none(prompt: Sequence[Message]) -> list[Message]:
    """Arrow gives every block every key: `{"type": "image", "text": None}`; templates test which are there."""
    return convert_blocks(prompt, lambda block: {k: v for k, v in block.items() if v is not None})


def convert_blocks(prompt: Sequence[Message], convert: Callable[[Settings], object]) -> list[Message]:
    """The prompt with each content block converted; contents that are plain text stay as they are."""
    return [
        {**message, "content": [convert(b) if isinstance(b, Mapping) else b for b in content]}
        if isinstance(content := message.get("content"), list)
        else message
        for message in prompt
    ]


def may_have_images(dataset: Any) -> bool:
    """Whether a sample of the data set(s) could have an image; False only where that is sure without drawing samples.

    Read from columns, so it is the same on every rank. A data set whose samples are made by a transform says it by
    the transform's `has_images`; where it does not, and in streams of unknown columns, the answer is True.
    """
    if dataset is None:
        return False
    if isinstance(dataset, Mapping):
        return any(may_have_images(part) for part in dataset.values())
    transform = transform_of(dataset)
    if transform is not None:
        return getattr(transform, "has_images", True)
    features = dataset.features
    if features is None or {"image", "images"} & set(_field_names(features.get("prompt"))):
        return True
    columns = [name for name in ("image", "images") if name in features]
    if not columns or not isinstance(dataset, datasets.Dataset):
        return bool(columns)
    return any(_has_images(chunk) for name in columns for chunk in dataset.data.column(name).chunks)


def _field_names(feature: Any) -> Iterator[str]:
    """Of the blocks of prompts of this type."""
    if isinstance(feature, Mapping):
        for name, inner in feature.items():
            yield name
            yield from _field_names(inner)
    elif isinstance(feature, list | tuple):
        for inner in feature:
            yield from _field_names(inner)
    elif hasattr(feature, "feature"):  # datasets.List and Sequence
        yield from _field_names(feature.feature)


def _has_images(chunk: pa.Array) -> bool:
    if pa.types.is_null(chunk.type):
        return False
    if pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type):
        return bool((pc.max(pc.list_value_length(chunk)).as_py() or 0) > 0)
    return chunk.null_count < len(chunk)


def with_own_images(function: RewardFunc) -> RewardFunc:
    """The function, called with copies of images, one for each completion, so that what it draws stays there.

    Images are opened once for all completions of a prompt. A function without `**kwargs` is not given the columns
    that the trainer adds unless it names them. Reward models, and rewards that look at no image, stay as they are.
    """
    if isinstance(function, nn.Module) or (isinstance(function, Reward) and not _looks(function)):
        return function
    call: Any = function
    names = _names(call)

    if is_async_callable(call):

        @functools.wraps(call)
        async def later(**columns: Any) -> Any:
            return await call(**_own(columns, names))

        return cast(RewardFunc, later)

    @functools.wraps(call)
    def now(**columns: Any) -> Any:
        return call(**_own(columns, names))

    return now


def _looks(reward: Reward) -> bool:
    """Whether a scorer of the reward, or of its gates, is given images; ours take a prompt for its words."""
    expects = signature_of(reward.scorer)
    holding = ("images", "image") if is_ours(reward.scorer) else _HOLD_IMAGES
    own = expects.takes_any or any(name in holding for name in expects.keywords)
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
    given = {name: value for name, value in columns.items() if names is None or name in names or name not in ADDED}
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
