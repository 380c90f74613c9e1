"""Attention over a pack: each prompt once, its completions as branches that see the prompt and themselves.

A (tokens x tokens) mask would cost memory and time in proportion to (P + G*C)^2, most of it for pairs that are
masked. Here each part is attended on its own: the prompt causally, P^2, and the branches as one batch against the
prompt and themselves, G*C*(P + C). Both are calls of `torch.nn.functional.scaled_dot_product_attention` that its
fused kernels take, so no score matrix is stored either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right


@dataclass(frozen=True)
class Span:
    """Where one group lies in a pack: its prompt, then its branches one after the other."""

    start: int
    prompt: int
    """Tokens of the prompt, P."""
    branches: tuple[int, ...]
    """Tokens of each branch, none of them 0."""

    @property
    def split(self) -> int:
        return self.start + self.prompt

    @property
    def end(self) -> int:
        return self.split + sum(self.branches)

    @property
    def longest(self) -> int:
        return max(self.branches, default=0)

    @property
    def is_ragged(self) -> bool:
        return len(set(self.branches)) > 1

    @cached_property
    def padded(self) -> Tensor:
        """For each slot of (branches x longest) the branch token that fills it; padding repeats the last one."""
        first = torch.tensor([0, *self.branches[:-1]]).cumsum(0)  # (n,)
        slots = torch.arange(self.longest).minimum(torch.tensor(self.branches)[:, None] - 1)  # (n, longest)
        return (first[:, None] + slots).flatten()

    @cached_property
    def kept(self) -> Tensor:
        """The slots that hold a token, in the order of the pack."""
        return (torch.arange(self.longest) < torch.tensor(self.branches)[:, None]).flatten().nonzero()[:, 0]


class PackMask(Tensor):
    """The mask of a pack, for models that hand their mask on to `scaled_dot_product_attention`.

    It has the shape of a ready-made mask, (1, 1, N, N), but no storage: it stands for its spans, and that function
    computes with them. Anything else that wants to compute with it is refused, since it would read no mask at all.
    """

    spans: tuple[Span, ...]

    @staticmethod
    def of(spans: Sequence[Span], device: torch.device) -> "PackMask":
        n_tokens = spans[-1].end
        storage = torch.zeros((), dtype=torch.bool, device=device).expand(1, 1, n_tokens, n_tokens)
        mask = storage.as_subclass(PackMask)
        mask.spans = tuple(spans)
        return mask

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        return f"PackMask({', '.join(map(str, self.spans))})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        if name in ("__get__", "size", "dim", "is_floating_point", "is_complex"):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        raise NotImplementedError(
            f"{name} of the mask of a shared-prefix pack: only scaled_dot_product_attention knows it; load the model "
            "with attn_implementation: sdpa"
        )


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: PackMask,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **settings: Any,
) -> Tensor:
    """(1, heads, N, head size), as `scaled_dot_product_attention` with the dense mask would give it."""
    if dropout_p:
        raise NotImplementedError("a shared-prefix pack has no attention dropout; set disable_dropout: true")
    query, key, value = _autocast(query, key, value)
    if key.shape[2] == 1:  # a prompt of one token; transformers folds groups of heads into the queries here
        return F.scaled_dot_product_attention(query, key, value, **settings)
    parts = []
    for span in attn_mask.spans:
        prompt = slice(span.start, span.split)
        q, k, v = (states[:, :, prompt] for states in (query, key, value))  # (1, heads, P, size)
        parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, **settings))
        if span.branches:
            parts.append(_branch_attention(query, key, value, span, settings))
    return torch.cat(parts, 2)


def _autocast(*states: Tensor) -> tuple[Tensor, ...]:
    """What autocast does to the inputs of attention. torch 2.14: `CausalBias` compares dtypes before it does."""
    device = states[0].device.type
    # torch 2.11 knows no autocast on the meta device, where `estimate_memory` runs a layer
    if device == "meta" or not torch.is_autocast_enabled(device):
        return states
    dtype = torch.get_autocast_dtype(device)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in states)


def _branch_attention(query: Tensor, key: Tensor, value: Tensor, span: Span, settings: Mapping[str, Any]) -> Tensor:
    """(1, heads, branch tokens, head size): every branch over its prompt and itself."""
    q, k, v = (_folded(states, span) for states in (query, key, value))  # (n, heads, longest, size)
    k, v = (
        torch.cat([states[:, :, span.start : span.split].expand(len(span.branches), -1, -1, -1), own], 2)
        for states, own in ((key, k), (value, v))
    )  # (n, heads, P + longest, size)
    # token j of a branch sees the prompt and j + 1 tokens of its own; padding comes after all tokens
    mask = causal_lower_right(span.longest, span.prompt + span.longest)
    output = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **settings)
    output = output.transpose(0, 1).flatten(1, 2)  # (heads, n*longest, size)
    return (output.index_select(1, span.kept.to(output.device)) if span.is_ragged else output)[None]


def _folded(states: Tensor, span: Span) -> Tensor:
    """Branches one beside the other: (1, heads, N, size) to (n, heads, longest, size)."""
    own = states[0, :, span.split : span.end]
    if span.is_ragged:
        own = own.index_select(1, span.padded.to(own.device))
    return own.unflatten(1, (len(span.branches), span.longest)).transpose(0, 1)
