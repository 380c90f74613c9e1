"""Policy and processor from a checkpoint; where a model keeps its vision tower, and how images come to it."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftConfig
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.image_utils import SizeDict
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from omnirl_core.types import Settings

TOWER_NAMES = ("vision_tower", "visual", "vision_model", "vision_encoder", "image_tower")
"""What models of transformers 5 call their vision tower (PreTrainedModel.get_encoder)."""
_FROZEN = "_frozen_by_trainer"
"""Attribute of a tower: whether the model was adapted when it was frozen, and the names that this concerned."""
_NAMES_AN_IMAGE = re.compile(r"vision|image|video|^</?img>$|img_context", re.IGNORECASE)
_CONFIG_KEY = re.compile(r"(image|video|vision|boi|eoi)\w*_token_(id|index)")


def load_policy(path: str, **model_init_kwargs: Any) -> PreTrainedModel:
    """The checkpoint as a model that answers: vision-language where its config says so, else text-only."""
    sees = has_vision(path, model_init_kwargs.get("trust_remote_code", False))
    architecture = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    return architecture.from_pretrained(path, **model_init_kwargs)


def has_vision(path: str, trust_remote_code: bool = False) -> bool:
    """Whether the checkpoint's config is a vision-language model's; no weight is read."""
    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def load_processor(
    path: str, min_pixels: int | None = None, max_pixels: int | None = None, **kwargs: object
) -> ProcessorMixin | PreTrainedTokenizerBase:
    """The checkpoint's processor (or tokenizer, for a text-only model), padding on the left as GRPO needs it.

    `min_pixels` and `max_pixels` bound width times height of every image as the model sees it.
    """
    kwargs = {"padding_side": "left", "truncation_side": "left", **kwargs}
    processor = AutoProcessor.from_pretrained(path, **kwargs)
    set_pixel_budget(processor, min_pixels, max_pixels)
    return processor


def set_pixel_budget(processor: object, min_pixels: int | None, max_pixels: int | None) -> None:
    """Bound width times height of resized images; saved with the processor, so evaluation sees the same.

    The attributes `min_pixels` and `max_pixels` of transformers 5.23 take effect but are not saved; `size` is.
    """
    if min_pixels is None and max_pixels is None:
        return
    images: Any = getattr(processor, "image_processor", None)
    kwargs = getattr(getattr(images, "valid_kwargs", None), "__annotations__", {})
    if "min_pixels" not in kwargs:
        raise ValueError(
            f"min_pixels and max_pixels are settings of Qwen's image processors; {type(processor).__name__} "
            "has none; remove them, or resize the images in the data"
        )
    low = images.size["shortest_edge"] if min_pixels is None else min_pixels
    high = images.size["longest_edge"] if max_pixels is None else max_pixels
    if low > high:
        raise ValueError(
            f"min_pixels {low:,} is above max_pixels {high:,} (what you leave out is the checkpoint's own)"
        )
    images.size = SizeDict(shortest_edge=low, longest_edge=high)


@contextmanager
def unpadded(processor: object) -> Iterator[None]:
    """Have the processor tokenize several prompts into lists of ids, each of its own length, as TRL 1.16 takes them.

    Of transformers 5.24, Gemma 4's pads them by default, and the padding would count as the prompts' own tokens;
    Mistral 3's makes tensors, which prompts of several lengths do not fit.
    """
    defaults, own = getattr(processor, "text_kwargs", None), vars(processor).get("text_kwargs")
    if not isinstance(defaults, dict) or not {"padding", "return_tensors"} & defaults.keys():
        yield
        return
    vars(processor)["text_kwargs"] = {k: v for k, v in defaults.items() if k not in ("padding", "return_tensors")}
    try:
        yield
    finally:
        del vars(processor)["text_kwargs"]
        vars(processor).update({} if own is None else {"text_kwargs": own})


def vision_tower_name(model: nn.Module) -> str | None:
    """Dotted name of the module that turns pixels into features (`model.visual`); None for a text-only model."""
    find: Any = getattr(model, "get_encoder", None)
    tower = find(modality="image") if find else None  # the model itself where it has no such module
    return next((name for name, module in model.named_modules() if module is tower and name), None)


def vision_tower(model: nn.Module) -> nn.Module | None:
    """The module itself, for a bare or PEFT-wrapped model."""
    base = base_model(model)
    name = vision_tower_name(base)
    return None if name is None else base.get_submodule(name)


def base_model(model: nn.Module) -> nn.Module:
    """The model without its PEFT wrapper."""
    unwrap: Any = getattr(model, "get_base_model", None)
    return unwrap() if unwrap else model


def freeze_vision_tower(model: nn.Module) -> int:
    """Stop training the vision tower, adapters in it included; returns how many parameters that froze."""
    tower = vision_tower(model)
    if tower is None:
        raise ValueError(f"freeze_vision_tower: {type(base_model(model)).__name__} has no vision tower")
    trained = {name: p for name, p in tower.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        parameter.requires_grad_(False)
    if trained:
        vars(tower)[_FROZEN] = (is_adapted(model), tuple(trained))
    return sum(parameter.numel() for parameter in trained.values())


def unfreeze_vision_tower(model: nn.Module, adapted: bool) -> None:
    """Train again what `freeze_vision_tower` stopped, and nothing that was not trained before it.

    What it stopped of a whole model stays as it is under an adapter (`adapted`), and the other way round.
    """
    tower = vision_tower(model)
    if tower is None or vars(tower).get(_FROZEN, (None, ()))[0] is not adapted:
        return
    _, names = vars(tower).pop(_FROZEN)
    for name, parameter in tower.named_parameters():
        if name in names:
            parameter.requires_grad_(True)


def is_adapted(model: nn.Module) -> bool:
    """Whether PEFT wraps the model."""
    return base_model(model) is not model


def keep_4bit_trainable(model: nn.Module) -> None:
    """Have 4-bit layers on a CPU stay in the form through which gradients pass.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks them for speed in the first pass without gradients, a
    rollout say, and no pass after that can be trained.
    """
    repacked = "support_avx512bf16_for_cpu"
    for module in model.modules():
        if getattr(module, repacked, False):
            setattr(module, repacked, False)


def without_vision(peft_config: PeftConfig) -> PeftConfig:
    """A copy of the adapter config that leaves the tower alone, by name: its layers share names with the text's.

    >>> from peft import LoraConfig
    >>> config = without_vision(LoraConfig(target_modules=["gate_proj"]))
    >>> re.fullmatch(config.exclude_modules, "model.visual.blocks.0.mlp.gate_proj") is not None
    True
    >>> re.fullmatch(config.exclude_modules, "model.language_model.layers.0.mlp.gate_proj") is not None
    False
    """
    if not hasattr(peft_config, "exclude_modules"):
        return peft_config
    patterns = [rf"(?:.*\.)?(?:{'|'.join(TOWER_NAMES)})(?:\..*)?"]
    given = peft_config.exclude_modules
    if isinstance(given, str):
        patterns.append(given)
    elif given:
        patterns += [rf"(?:.*\.)?{re.escape(name)}" for name in sorted(given)]
    config = copy.deepcopy(peft_config)
    config.exclude_modules = "|".join(f"(?:{pattern})" for pattern in patterns)
    return config


def vision_token_ids(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> list[int]:
    """Ids that stand for images or frame them: a sampled one would ask for features that no image has.

    Those that the config names, and the tokenizer's special tokens that say so (`<|vision_pad|>`, `<img>`).
    Tokens for boxes and objects stay: an answer may need them.

    >>> from transformers import Qwen2_5_VLConfig
    >>> vision_token_ids(Qwen2_5_VLConfig())
    [151652, 151653, 151655, 151656]
    """
    ids = {value for key, value in config.to_dict().items() if _CONFIG_KEY.fullmatch(key)}
    if tokenizer is not None:
        added = tokenizer.added_tokens_decoder.items()
        ids |= {id for id, token in added if token.special and _NAMES_AN_IMAGE.search(token.content)}
        ids -= {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}
    return sorted(id for id in ids if isinstance(id, int))


# -- what a processor gives for images, by prompt -------------------------------------------------------------------
#
# Processors lay images out in four ways, told apart by what comes beside `pixel_values`:
#
# - `image_grid_thw` (Qwen, GLM): rows are patches, as many for an image as its grid says;
# - `pixel_attention_mask` (Idefics3, SmolVLM): a row a prompt, its tiles padded to the most of all prompts;
# - `image_sizes` (LLaVA-NeXT, Mistral 3): a row an image;
# - neither (InternVL, Gemma 3): a row a tile, and as many tokens for each.

GRID, PADDED, SIZES, PIXELS = "image_grid_thw", "pixel_attention_mask", "image_sizes", "pixel_values"
ImageTensors = Mapping[str, Tensor]
"""What the model takes for the images of a prompt, in their order; empty without images."""


def split_images(
    backbone: nn.Module,
    token_ids: Sequence[Sequence[int]],
    fields: Settings,
    n_images: Sequence[int],
    device: torch.device | str = "cpu",
) -> list[dict[str, Tensor]]:
    """The images of each prompt, from what a processor gave for all of them.

    Raises:
        ValueError: the tiles of a batch cannot be told apart by its image tokens.
    """
    if fields.get(PIXELS) is None:
        return [{} for _ in token_ids]
    given = {name: fields[name] for name in (PIXELS, GRID, PADDED, SIZES) if fields.get(name) is not None}
    tensors = {k: v if isinstance(v, Tensor) else torch.as_tensor(np.asarray(v)) for k, v in given.items()}
    rows = {name: list(n_images) for name in tensors}
    if GRID in tensors:
        rows[PIXELS] = [int(part.prod(-1).sum()) for part in tensors[GRID].split(list(n_images))]
    elif PADDED in tensors:
        rows = {name: [1] * len(token_ids) for name in tensors}
    elif SIZES not in tensors:
        rows[PIXELS] = _tiles(backbone, token_ids, len(tensors[PIXELS]))
    parts = {name: tensor.split(rows[name]) for name, tensor in tensors.items()}
    return [
        {name: parts[name][i].to(device) for name in tensors} if n_images[i] else {} for i in range(len(token_ids))
    ]


def _tiles(backbone: nn.Module, token_ids: Sequence[Sequence[int]], n_tiles: int) -> list[int]:
    """Tiles of each prompt: image tokens are as many for every tile."""
    config: Any = backbone.config
    tokens = [list(ids).count(config.image_token_id) for ids in token_ids]
    if not n_tiles or sum(tokens) % n_tiles or any(n % (sum(tokens) // n_tiles) for n in tokens):
        raise ValueError(
            f"{n_tiles} tiles of images, and {tokens} image tokens in the prompts: not as many for each tile; set "
            "shared_prefix: off, and please report the model"
        )
    return [n // (sum(tokens) // n_tiles) for n in tokens]


def image_tensors(images: Sequence[ImageTensors]) -> dict[str, Tensor]:
    """What the model takes for these prompts' images in one row of tokens; {} where there are none."""
    shown = [own for own in images if own]
    parts = {name: [own[name] for own in shown] for name in (shown[0] if shown else ())}
    if PADDED in parts:
        return {name: torch.cat(values, 1) for name, values in parts.items()}
    return {name: torch.cat(_padded(values)) for name, values in parts.items()}


def image_rows(images: Sequence[ImageTensors]) -> dict[str, Tensor]:
    """What the model takes for them in a row a prompt, as the processor lays them out; {} where there are none."""
    shown = next((own for own in images if own), {})
    if PADDED not in shown:
        return image_tensors(images)
    blank = {name: tensor.new_zeros(1, 1, *tensor.shape[2:]) for name, tensor in shown.items()}
    return {name: torch.cat(_padded([(own or blank)[name] for own in images])) for name in shown}


def _padded(values: list[Tensor]) -> list[Tensor]:
    """With zeros along the second dimension, tiles of an image or of a prompt, to the most of them."""
    most = max(value.shape[1] for value in values)
    if all(value.shape[1] == most for value in values):
        return values
    return [F.pad(value, (0, 0) * (value.ndim - 2) + (0, most - value.shape[1])) for value in values]


def counts_of_rows(images: Sequence[ImageTensors], n_images: Sequence[int]) -> dict[str, list[int]]:
    """How many images and tiles each row of `image_rows` has, as TRL 1.16 slices a batch by them."""
    shown = next((own for own in images if own), {})
    if PADDED in shown:  # see `counted_by_sample`
        return {"num_images": [0] * len(images)}
    counts = {"num_images": list(n_images)}
    if not {GRID, SIZES} & set(shown):
        counts["num_tiles"] = [len(own.get(PIXELS, ())) for own in images]
    return counts
