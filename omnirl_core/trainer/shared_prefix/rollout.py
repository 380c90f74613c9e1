"""Rollout with a shared prefix: prompts are prefilled once, and their keys and values are held and read once.

TRL's rollout hands every prompt G times to `generate`. Here the distinct prompts run first, without their last
token; `generate` then starts from that cache with the last token of every row. On a GPU every row gets a copy of its
prompt's keys and values unless they are large: the prompt still runs once. The logits are those of plain
generation, and random numbers are drawn in the same order, so a seed gives the same completions up to rounding.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_outputs import CausalLMOutputWithPast as ModelOutputWithCache

from omnirl_core.models import base_model

CACHE_NAME = "cache" if "cache" in ModelOutputWithCache.__dataclass_fields__ else "past_key_values"
"""What models and `generate` call their cache: `cache` from transformers 5.24 on."""


@contextmanager
def shared_prefill(model: PreTrainedModel, prompt_of_sample: Sequence[int]) -> Iterator[None]:
    """While it lasts, `model.generate` runs each distinct prompt once.

    `prompt_of_sample` numbers the distinct prompts from 0 in the order of their first rows. `input_ids` and
    `attention_mask` come for all rows, padded on the left; everything about images for the distinct prompts only.
    """
    own = vars(model).get("generate")
    generate = functools.partial(_generate, model, model.generate, tuple(prompt_of_sample))
    setattr(model, "generate", generate)  # noqa: B010  of this object, and so no method that types know
    try:
        yield
    finally:
        del model.generate
        if own is not None:
            setattr(model, "generate", own)  # noqa: B010


def _generate(
    model: Any,
    plain: Any,
    prompt_of_sample: tuple[int, ...],
    input_ids: Tensor,
    attention_mask: Tensor,
    generation_config: Any,
    **fields: Any,
) -> Tensor:
    rows = torch.tensor(prompt_of_sample, device=input_ids.device)  # (B*G,)
    first = [prompt_of_sample.index(i) for i in range(max(prompt_of_sample) + 1)]
    prompts, mask = input_ids[first], attention_mask[first]  # (B, P)
    positions = base_model(model)._prepare_position_ids_for_generation(  # type: ignore[operator]
        prompts, {**fields, "attention_mask": mask}
    )  # (B, P), or (4, B, P): in the text, then time, height and width
    if prompts.shape[1] > 1:
        image_fields = {name: value for name, value in fields.items() if name != "mm_token_type_ids"}
        # the base model, as `generate` calls it: PEFT's wrapper may be under autocast, and `generate` is not
        output = base_model(model)(
            input_ids=prompts[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[..., :-1],
            use_cache=True,
            logits_to_keep=1,
            **image_fields,
        )
        fields = {CACHE_NAME: cache_of_rows(output[CACHE_NAME], mask[:, :-1], prompt_of_sample)}
    return plain(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=positions.index_select(-2, rows),
        generation_config=generation_config,
        **fields,
    )


COPIED_BYTES = 4 * 2**30
"""Keys and values of all rows' prompts up to here are copied on a GPU: it reads them in 2 ms a token.

`PrefixLayer` saves that read, but computes a layer in about thirty small kernels where attention is one. For
Qwen2.5-VL-3B on an H100, 36 layers of them took 20 to 40 ms a token longer (benchmarks/gpu).
"""


def cache_of_rows(prefilled: Cache, mask: Tensor, prompt_of_sample: Sequence[int]) -> object:
    """The cache that all rows generate from: prompts once, or on a GPU a copy for each row where they are small."""
    keys = keys_and_values(prefilled)[0][0]
    size = 2 * len(prefilled.layers) * len(prompt_of_sample) * keys[0].numel() * keys.dtype.itemsize
    if not copies_prompts(keys.device, size):
        return PrefixCache(prefilled, mask, prompt_of_sample)
    prefilled.batch_select_indices(torch.tensor(prompt_of_sample, device=keys.device))
    return prefilled


def copies_prompts(device: torch.device, n_bytes: int) -> bool:
    """Whether a rollout on this device holds a copy of each prompt's keys and values for each of its rows."""
    return device.type == "cuda" and n_bytes <= COPIED_BYTES


def keys_and_values(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    """Of each layer, (B, heads, P, size)."""
    layers: list[Any] = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


class PrefixCache(Cache):
    """Keys and values of each distinct prompt once, and of the tokens that every row has generated since."""

    def __init__(self, prefilled: Cache, mask: Tensor, prompt_of_sample: Sequence[int]):
        block, prompt_of_block = blocks(prompt_of_sample)
        owners = torch.tensor(prompt_of_block, device=mask.device)  # (blocks,)
        layers_given = keys_and_values(prefilled)
        heads = layers_given[0][0].shape[1]
        hidden = None if bool(mask.all()) else (mask[owners] == 0).repeat_interleave(heads, 0)[:, None]
        is_one_each = prompt_of_block == list(range(len(mask)))
        layers: list[Any] = []
        for given in layers_given:
            keys, values = (x if is_one_each else x[owners] for x in given)
            layers.append(PrefixLayer(keys, values, hidden, block))
        super().__init__(layers=layers)


def blocks(prompt_of_sample: Sequence[int]) -> tuple[int, list[int]]:
    """The largest blocks of equal size, side by side, whose rows have one prompt; and the prompt of each block.

    >>> blocks([0, 0, 0, 0, 1, 1])
    (2, [0, 0, 1])
    """
    cuts = [i for i in range(1, len(prompt_of_sample)) if prompt_of_sample[i] != prompt_of_sample[i - 1]]
    size = math.gcd(len(prompt_of_sample), *cuts)
    return size, list(prompt_of_sample[::size])


class PrefixLayer(CacheLayerMixin):
    """One layer of it: `keys` and `values` of the prompts, and room for what the rows generate.

    Heads are folded into rows, (blocks*heads, P, size) and (rows*heads, room, size), as `torch.bmm` takes them.
    """

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, hidden: Tensor | None, block: int):
        super().__init__()
        self.n_blocks, self.n_heads, self.n_prefix, self.size = keys.shape
        self.keys, self.values = keys.flatten(0, 1), values.flatten(0, 1)
        self.hidden, self.block, self.n_samples = hidden, block, self.n_blocks * block
        self.is_initialized, self.n_own = True, 0
        room = self.n_samples * self.n_heads, 32, self.size
        self.own_keys, self.own_values = keys.new_empty(room), values.new_empty(room)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to do."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        end = self.n_own + key_states.shape[2]
        if end > self.own_keys.shape[1]:  # twice the room, so that a token is copied once on average
            self.own_keys = torch.cat([self.own_keys, torch.empty_like(self.own_keys)], 1)
            self.own_values = torch.cat([self.own_values, torch.empty_like(self.own_values)], 1)
        self.own_keys[:, self.n_own : end] = key_states.flatten(0, 1)
        self.own_values[:, self.n_own : end] = value_states.flatten(0, 1)
        self.n_own = end
        keys: Any = PrefixedKeys(self)
        return keys, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.n_prefix + self.n_own

    def get_max_length(self) -> int:
        return -1

    def attention(self, query: Tensor) -> Tensor:
        """Of n scaled queries on each kv head of each row, (rows*heads, n, size), over all that the row sees.

        Scores are small, one new token a row, and computed by plain products: the queries of a block share each
        read of their prompt's keys and values.
        """
        n, n_prefix = query.shape[1], self.n_prefix
        own_keys, own_values = self.own_keys[:, : self.n_own], self.own_values[:, : self.n_own]
        own = torch.bmm(query, own_keys.transpose(1, 2))  # (rows*heads, n, tokens so far)
        prefix = torch.bmm(self._by_block(query), self.keys.transpose(1, 2))  # (blocks*heads, block*n, P)
        if self.hidden is not None:
            prefix = prefix.masked_fill(self.hidden, -math.inf)
        scores = torch.cat([self._by_row(prefix, n), own], -1)
        weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        output = torch.bmm(self._by_block(weights[..., :n_prefix]), self.values)
        return torch.baddbmm(self._by_row(output, n), weights[..., n_prefix:], own_values)

    def _by_block(self, x: Tensor) -> Tensor:
        """(rows*heads, n, ...) to (blocks*heads, block*n, ...)"""
        apart = x.reshape(self.n_blocks, self.block, self.n_heads, *x.shape[1:])
        return apart.transpose(1, 2).reshape(self.n_blocks * self.n_heads, -1, x.shape[-1])

    def _by_row(self, x: Tensor, n: int) -> Tensor:
        """(blocks*heads, block*n, ...) to (rows*heads, n, ...)"""
        apart = x.view(self.n_blocks, self.n_heads, self.block, n, x.shape[-1])
        return apart.transpose(1, 2).reshape(-1, n, x.shape[-1])


class PrefixedKeys:
    """Stands for the keys of a layer towards `scaled_dot_product_attention`, which computes with the layer itself."""

    def __init__(self, layer: PrefixLayer):
        self.layer = layer
        self.shape = (layer.n_samples, layer.n_heads, layer.get_seq_length(), layer.size)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _decode(*args, **(kwargs or {}))
        raise NotImplementedError(f"{getattr(func, '__name__', func)} of the keys of a shared-prefix cache")


def _decode(
    query: Tensor,
    key: PrefixedKeys,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention of one new token a row: (rows, heads, 1, size), or heads folded as (rows, kv heads, n, size).

    Its mask hides padding before prompts only, which the layer knows, and its values are in the layer as well.
    """
    layer, size = key.layer, query.shape[-1]
    scale = size**-0.5 if scale is None else scale
    folded = query.reshape(layer.n_samples * layer.n_heads, -1, size)
    return layer.attention(folded * scale).view(query.shape)
