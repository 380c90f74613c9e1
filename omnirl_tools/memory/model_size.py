"""A model without weights, on the meta device: its parameters, and what one layer keeps for the backward pass."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.qwen2_5_vl import Qwen2_5_VLConfig

from omnirl_core.launch import silence_upstream_noise
from omnirl_core.models import base_model, freeze_vision_tower, vision_tower
from omnirl_core.trainer.shared_prefix.packing import PackMask, Span

PUBLISHED = Path(__file__).with_name("published.json")


def model_config(path: str, **kwargs: object) -> PretrainedConfig:
    """The model's config from its folder or the hub; Qwen2.5-VL-3B and -7B come with this package."""
    shipped = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    if path in shipped:
        numbers = {name: value for name, value in shipped[path].items() if name != "source"}
        return Qwen2_5_VLConfig(**numbers)
    return AutoConfig.from_pretrained(path, **kwargs)


def meta_model(
    config: object,
    dtype: torch.dtype,
    attention: str | None,
    peft_config: PeftConfig | None,
    freeze_vision: bool,
) -> nn.Module:
    """The model as it would train, with its adapter, on the meta device: shapes and no memory."""
    key = (id(config), dtype, attention, repr(peft_config), freeze_vision)
    if key not in _MODELS:
        if len(_MODELS) >= MOST_MODELS:
            _MODELS.pop(next(iter(_MODELS)))
        _MODELS[key] = config, _meta_model(config, dtype, attention, peft_config, freeze_vision)
    return _MODELS[key][1]


MOST_MODELS = 8
_MODELS: dict[tuple, tuple[Any, nn.Module]] = {}
"""The last models, each with its config, whose id is then no other's: a search for what fits asks for few kinds."""


def _meta_model(
    config: Any,
    dtype: torch.dtype,
    attention: str | None,
    peft_config: PeftConfig | None,
    freeze_vision: bool,
) -> nn.Module:
    silence_upstream_noise()  # no trainer has been made yet
    sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    with torch.device("meta"):
        # flash attention cannot be built where it is not installed; it keeps what sdpa keeps
        how = attention if attention in ("eager", "sdpa") else "sdpa"
        model = auto.from_config(config, dtype=dtype, attn_implementation=how)
        if peft_config is not None:
            model = get_peft_model(model, peft_config)
    if freeze_vision:
        freeze_vision_tower(model)
    return model.train()


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters; `quantized` are those that bitsandbytes stores in 4 or 8 bits."""

    base: int
    adapter: int
    trainable: int
    head: int
    """Of the language-model head, or of the embedding where it is one with it."""
    head_trains: bool
    largest_layer: int
    quantized: int
    cast: int
    """Of all linear layers but the head: what autocast keeps a copy of."""

    @classmethod
    def of(cls, model: nn.Module) -> "Parameters":
        named = list(model.named_parameters())
        adapter = sum(p.numel() for name, p in named if "lora_" in name)
        head: Any = base_model(model).get_output_embeddings().weight  # type: ignore[operator]
        linear = {
            id(module.weight)
            for module in base_model(model).modules()
            if isinstance(module, nn.Linear) and module.weight is not head
        }
        layers = text_layers(model)
        tower = vision_tower(model)
        seeing = set() if tower is None else {id(p) for p in tower.parameters()}
        in_linear = [(name, p) for name, p in named if id(p) in linear and "lora_" not in name]
        return cls(
            base=sum(p.numel() for _, p in named) - adapter,
            adapter=adapter,
            trainable=sum(p.numel() for _, p in named if p.requires_grad),
            head=head.numel(),
            head_trains=head.requires_grad,
            largest_layer=sum(p.numel() for p in layers[0].parameters()),
            # the vision tower stays in its dtype (omnirl_tools/model_settings.py)
            quantized=sum(p.numel() for _, p in in_linear if id(p) not in seeing),
            cast=sum(p.numel() for _, p in in_linear),
        )


def text_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of the language model."""
    decoder = base_model(model).get_decoder()  # type: ignore[operator]
    return decoder.layers


def kept_by_layer(model: nn.Module, tokens: int, spans: tuple[Span, ...] = ()) -> int:
    """Bytes that the first decoder layer keeps for backward over one row of so many tokens; a pack has `spans`."""
    layer = text_layers(model)[0]
    config = base_model(model).config.get_text_config()  # type: ignore[union-attr, operator]
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dtype = next(p.dtype for p in layer.parameters() if p.is_floating_point())
    hidden = torch.empty(1, tokens, config.hidden_size, dtype=dtype, device="meta", requires_grad=True)
    angles = torch.empty(1, tokens, head_size, dtype=dtype, device="meta")
    mask = PackMask.of(spans, torch.device("meta")) if spans else None

    def run() -> Any:
        return layer(hidden, attention_mask=mask, position_embeddings=(angles, angles), use_cache=False)

    return _kept(run, layer)


def kept_by_block(model: nn.Module, patches: int) -> int:
    """The same of one block of the vision tower over the patches of the images; 0 where the tower is frozen."""
    tower: Any = vision_tower(model)
    if tower is None or not patches:
        return 0
    block = tower.blocks[0]
    trains = any(p.requires_grad for p in tower.parameters())
    config = tower.config
    width = _width(config)
    dtype = next(p.dtype for p in block.parameters() if p.is_floating_point())
    hidden = torch.empty(patches, width, dtype=dtype, device="meta", requires_grad=trains)
    angles = torch.empty(patches, width // config.num_heads, dtype=dtype, device="meta")
    lengths = torch.tensor([0, patches], dtype=torch.int32)
    return _kept(lambda: block(hidden, cu_seqlens=lengths, position_embeddings=(angles, angles)), block)


def _width(config: Any) -> int:
    """Of a patch inside the tower; Qwen2-VL calls it embed_dim, its hidden_size is the language model's."""
    return int(config.embed_dim if config.model_type == "qwen2_vl" else config.hidden_size)


def _kept(run: Callable[[], Any], module: nn.Module) -> int:
    """Bytes of the distinct tensors that autograd saves while `run` runs, parameters aside."""
    own = {p.untyped_storage()._cdata for p in module.parameters()}
    saved: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage  # held, so that its address is not given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), FusedAttention():
        output = run()
    del output
    return sum(storage.nbytes() for storage in saved.values())


class FusedAttention(TorchFunctionMode):
    """On the meta device, `scaled_dot_product_attention` as its fused kernels do it: no score matrix is kept."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        mask = kwargs.get("attn_mask")
        if isinstance(mask, PackMask):
            with self:  # the pack calls the same function, part by part
                return PackMask.__torch_function__(func, types, args, kwargs)
        return (
            _Fused.apply(*args[:3])
            if len(args) >= 3
            else _Fused.apply(kwargs["query"], kwargs["key"], kwargs["value"])
        )


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("shapes only")
