"""Keeps the vision tower in every forward, at zero weight, so that ranks with and without images agree.

A forward without images leaves the tower out. Across ranks that breaks: the tower's collectives run on some
ranks only (hang or crash under ZeRO and FSDP), and under ZeRO-3 a parameter without a gradient keeps the last
step's. So such a forward runs the tower on the smallest image there is and adds 0.0 times its features to the
embeddings: every parameter takes part, and its gradient is exactly zero.

Where no engine depends on the order in which modules run (one process, DDP), the tower itself is left out and its
parameters get their zeros directly: on a GPU the smallest image takes as long as 512 tokens of text, in kernels that
are all too small to fill it.
"""

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import ProcessorMixin
from trl import GRPOConfig

from omnirl_core.models import base_model, freeze_vision_tower, keep_4bit_trainable, vision_tower_name
from omnirl_core.trainer.fault_tolerance.image_guard import not_counted
from omnirl_core.trainer.multimodal import check_image_inputs, suppress_vision_tokens

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

_DDP_SEARCH_IS_OURS = "_is_ddp_search_ours"
CACHE_NAMES = ("cache", "past_key_values")
"""What models call their cache from transformers 5.24 on, and before it."""


@dataclass(frozen=True)
class DummyImage:
    """The smallest image's inputs, and when it has to run."""

    tower: str
    inputs: dict[str, Tensor]
    sharded: bool
    """Parameters are gathered when a module runs (ZeRO-3, FSDP): then a pass without gradient needs it too."""
    runs_tower: bool = True
    """False where zeros for its parameters do; not where engines reduce gradients in the order of their coming
    (DeepSpeed, FSDP), nor where images leave some of them out."""

    def needed(self, backbone: nn.Module) -> bool:
        return self.sharded or (torch.is_grad_enabled() and bool(self._trained(backbone)))

    def added(self, embeddings: Tensor, backbone: nn.Module) -> Tensor:
        zero = self.features(backbone) if self.runs_tower else _Zero.apply(*self._trained(backbone))
        return embeddings + zero.to(embeddings.device, embeddings.dtype)  # (B, P+C, hidden)

    def features(self, backbone: nn.Module) -> Tensor:
        """Zero, as a sum of everything that the tower gives for the smallest image."""
        tower, parameter = backbone.get_submodule(self.tower), next(backbone.parameters())
        dtype = getattr(tower, "dtype", parameter.dtype)
        inputs = {
            name: value.to(parameter.device, dtype if value.is_floating_point() else value.dtype)
            for name, value in self.inputs.items()
        }
        with not_counted(tower):
            output = backbone.get_image_features(**inputs, return_dict=True)  # type: ignore[operator]
        return 0.0 * torch.stack([tensor.float().sum() for tensor in _used(output)]).sum()

    def _trained(self, backbone: nn.Module) -> list[nn.Parameter]:
        """The tower's trainable parameters."""
        return [p for p in backbone.get_submodule(self.tower).parameters() if p.requires_grad]


class _Zero(torch.autograd.Function):
    """Zero, with a gradient of zero for each of the parameters that it is given."""

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> Tensor:
        ctx.parameters = parameters
        return torch.zeros((), device=parameters[0].device)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return tuple(torch.zeros_like(parameter) for parameter in ctx.parameters)


def add_dummy_image(
    model: nn.Module, processor: ProcessorMixin, sharded: bool, runs_tower: bool = True
) -> DummyImage | None:
    """Patch the backbone's forward (`model.model`); None, and nothing done, where it has no vision tower.

    A backbone that has a dummy image already, from an earlier trainer, is not patched again; it gets this one.

    Not a forward pre-hook: under ZeRO-3 the tower would run before DeepSpeed's own hook on the parent.
    """
    backbone: Any = base_model(model).base_model
    tower = vision_tower_name(backbone)
    if tower is None or not hasattr(backbone, "get_image_features"):
        return None
    dummy = DummyImage(tower, _smallest_image(backbone, processor), sharded, sharded or runs_tower)
    is_patched = "_dummy_image" in vars(backbone)
    backbone._dummy_image = dummy
    if is_patched:
        return dummy
    plain = type(backbone).forward

    @functools.wraps(plain)  # transformers reads the signature
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs.update(zip(list(inspect.signature(plain).parameters)[1:], args, strict=False))
        return _forward_with_dummy(self, kwargs)

    # attributes of the instance, bound methods both: copy.deepcopy of the model binds them to the copy
    backbone._forward_without_dummy = backbone.forward
    backbone.forward = MethodType(forward, backbone)
    return dummy


WHOLE_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families whose trainable parameters all take part in every forward with the dummy image."""


def takes_part_whole(model: nn.Module) -> bool:
    config: Any = base_model(model).config
    return config.model_type in WHOLE_FAMILIES


def add_dummy_images(trainer: "OmniGRPOTrainer") -> DummyImage | None:
    """To a trainer's policy and reference model; that of the policy."""
    sharded = trainer.is_fsdp_enabled or trainer.engine.startswith("zero3")
    ordered = sharded or trainer.args.deepspeed_plugin is not None
    how = (trainer.processing_class, sharded, ordered or not takes_part_whole(trainer.model))
    if trainer.ref_model is not None:
        add_dummy_image(trainer.accelerator.unwrap_model(trainer.ref_model), *how)
    return add_dummy_image(trainer.model, *how)


def set_up_vision(trainer: "OmniGRPOTrainer", ddp_search: bool | None) -> None:
    """Freeze the tower, keep it in every forward, and keep its tokens out of completions, as the run needs it.

    Args:
        trainer: OmniGRPOTrainer.
        ddp_search: the user's `ddp_find_unused_parameters`.

    Raises:
        ValueError: TRL does not hand the model all that its images come with.
    """
    check_image_inputs(trainer)
    keep_4bit_trainable(trainer.model)
    if trainer.settings.freeze_vision_tower:
        freeze_vision_tower(trainer.model)
    trainer.dummy_image = add_dummy_images(trainer) if trainer._is_mixed else None
    if trainer.dummy_image is None:
        remove_dummy_image(trainer.model)
    elif ddp_search is None and takes_part_whole(trainer.model):
        stop_ddp_search(trainer)
    if trainer._is_vlm:
        suppress_vision_tokens(trainer)


def ddp_search_of(args: GRPOConfig) -> bool | None:
    """The user's `ddp_find_unused_parameters`, which an earlier trainer may have set since."""
    if _DDP_SEARCH_IS_OURS in vars(args):
        args.ddp_find_unused_parameters = None
    return args.ddp_find_unused_parameters


def stop_ddp_search(trainer: "OmniGRPOTrainer") -> None:
    """TRL 1.16 has DDP search for what a text-only batch leaves out; where nothing is left out, DDP would warn so."""
    trainer.args.ddp_find_unused_parameters = trainer.accelerator.ddp_handler.find_unused_parameters = False
    setattr(trainer.args, _DDP_SEARCH_IS_OURS, True)


def encode_before_rollout(trainer: "OmniGRPOTrainer", fields: Mapping[str, object]) -> None:
    """Where `generate` gathers parameters module by module, ranks without images must encode one too."""
    if trainer.dummy_image is None or "pixel_values" in fields:
        return
    is_zero3, gathers = trainer.engine.startswith("zero3"), trainer.args.ds3_gather_for_generation
    if trainer._dist.fsdp_version == 1 or (is_zero3 and not gathers):
        backbone: Any = base_model(trainer.accelerator.unwrap_model(trainer.model)).base_model
        with torch.no_grad():
            trainer.dummy_image.features(backbone)


def remove_dummy_image(model: nn.Module) -> None:
    """Stop what an earlier trainer added; its patch stays, and passes everything on."""
    backbone: Any = base_model(model).base_model
    if "_dummy_image" in vars(backbone):
        backbone._dummy_image = None


def _forward_with_dummy(backbone: Any, kwargs: dict[str, Any]) -> Any:
    plain, dummy = backbone._forward_without_dummy, backbone._dummy_image
    if dummy is None or _has_images(kwargs):
        return plain(**kwargs)
    kwargs = _without_empty_images(kwargs, dummy)
    # with a cache it is generation: images, if any, were encoded before
    is_cached = any(kwargs.get(name) is not None for name in CACHE_NAMES)
    if is_cached or not dummy.needed(backbone):
        return plain(**kwargs)
    if kwargs.get("inputs_embeds") is not None:
        return plain(**{**kwargs, "inputs_embeds": dummy.added(kwargs["inputs_embeds"], backbone)})
    with _added_to_embeddings(backbone, dummy):
        return plain(**kwargs)


def _has_images(kwargs: dict[str, Any]) -> bool:
    pixels = (value for name, value in kwargs.items() if name.startswith("pixel_values"))
    shown = any(value is not None and value.numel() for value in pixels) and not _is_padding_only(kwargs)
    # transformers 5.23 and 5.24: `generate` encodes before the prefill
    encoded = kwargs.get("mm_encoder_outputs") or {}
    return shown or any(value is not None for value in encoded.values())


def _is_padding_only(kwargs: dict[str, Any]) -> bool:
    """Idefics and SmolVLM pad rows without images too: pixels of rows that have none, masked everywhere."""
    mask = kwargs.get("pixel_attention_mask")
    return isinstance(mask, Tensor) and not mask.any()


def _without_empty_images(kwargs: dict[str, Any], dummy: DummyImage) -> dict[str, Any]:
    """TRL 1.16 slices a text-only micro-batch to (0, ...) tensors; vision towers cannot take zero images."""
    names = {*dummy.inputs, "pixel_values", "image_grid_thw", "pixel_attention_mask", "image_sizes"}
    is_empty = {n for n in names if isinstance(kwargs.get(n), Tensor) and kwargs[n].shape[0] == 0}
    empty = names if _is_padding_only(kwargs) else is_empty
    return {name: value for name, value in kwargs.items() if name not in empty}


@contextmanager
def _added_to_embeddings(backbone: Any, dummy: DummyImage) -> Iterator[None]:
    """Where models with images run the tower too: after the embeddings. Ranks must gather in one order.

    The model embeds the ids itself: without input_ids Qwen would reuse the last batch's rope_deltas.
    """
    embeddings = backbone.get_input_embeddings()
    handle = embeddings.register_forward_hook(lambda module, args, output: dummy.added(output, backbone))
    try:
        yield
    finally:
        handle.remove()


def _smallest_image(backbone: Any, processor: Any) -> dict[str, Tensor]:
    """What `get_image_features` takes for the smallest image; black, so that nothing can overflow."""
    images = processor.image_processor
    if hasattr(images, "merge_size") and hasattr(images, "temporal_patch_size"):  # Qwen: any grid of patches
        side, values = images.merge_size, 3 * images.temporal_patch_size * images.patch_size**2
        grid = torch.tensor([[1, side, side]])  # one merged token
        return {"pixel_values": torch.zeros(side * side, values), "image_grid_thw": grid}
    black = images(images=[Image.new("RGB", (32, 32))], return_tensors="pt")
    takes = inspect.signature(backbone.get_image_features).parameters
    return {name: value for name, value in black.items() if name in takes}


def _used(output: Any) -> Iterator[Tensor]:
    """The features that models put among the embeddings: pooled ones, and deep-stacked ones beside them.

    Not the tower's other outputs: DeepSpeed counts which outputs take part in the backward pass, rank by rank.
    """
    for name in ("pooler_output", "deepstack_features"):
        yield from _tensors(getattr(output, name, None))


def _tensors(features: Any) -> Iterator[Tensor]:
    """One tensor, one for each image, or, in Qwen3-VL, one for each image of each depth."""
    if isinstance(features, Tensor):
        yield features
    else:
        for part in features or ():
            yield from _tensors(part)
