"""Shared prefix: the prompt of a group, images included, goes through the model once, not once a completion.

A micro-batch becomes one row, a pack: `[prompt 1 | its completions | prompt 2 | its completions | ...]`. Positions of
every completion continue from its prompt (M-RoPE included), attention lets it see its prompt and itself only, and
the vision tower meets the images of each prompt once. Nothing is padded, and the language-model head sees only
the positions that predict a completion token. The numbers are those of one row a completion: nothing in
GRPO depends on the prompt being encoded G times.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right

from omnirl_core.types import ModelInputs, Settings


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt as the model takes it, held once for all its completions; two are the same if they are one object."""

    token_ids: Tensor
    """(P,)"""
    position_ids: Tensor
    """(P,), or (3, P) where the model rotates by time, height and width."""
    images: Mapping[str, Tensor] = field(default_factory=dict)
    """What the model takes for its images, in their order; empty without images."""
    n_images: int = 0
    token_types: Tensor | None = None
    """(P,), which tokens stand for images."""

    def __len__(self) -> int:
        return len(self.token_ids)

    @cached_property
    def _after(self) -> int:
        return int(self.position_ids.max()) + 1

    def following_positions(self, n_tokens: int) -> Tensor:
        """Position ids of tokens after the prompt, (n,) or (3, n): on from the largest of all axes."""
        positions = torch.arange(self._after, self._after + n_tokens, device=self.position_ids.device)
        return positions.expand(*self.position_ids.shape[:-1], -1)


def image_tensors(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """What the model takes for the images of these prompts, one after the other; {} where there are none."""
    names = dict.fromkeys(name for prompt in prompts for name in prompt.images)
    return {name: torch.cat([prompt.images[name] for prompt in prompts if prompt.images]) for name in names}


def encode_prompts(
    backbone: nn.Module,
    token_ids: Sequence[Sequence[int]],
    fields: Settings,
    n_images: Sequence[int],
    device: torch.device | str = "cpu",
) -> list[Prompt]:
    """Prompts from the batch that a processor made of them: `fields` is what it gave besides the token ids."""
    grids = fields.get("image_grid_thw")
    image_fields: list[Mapping[str, Tensor]] = [{}] * len(token_ids)
    if grids is not None and "pixel_values" in fields:
        grid_parts = torch.as_tensor(grids).split(list(n_images))
        patches = [int(part.prod(-1).sum()) for part in grid_parts]
        pixel_parts = torch.as_tensor(fields["pixel_values"]).split(patches)
        image_fields = [
            {"pixel_values": pixels.to(device), "image_grid_thw": grid.to(device)} if len(grid) else {}
            for pixels, grid in zip(pixel_parts, grid_parts, strict=True)
        ]
    types = fields.get("mm_token_type_ids") or [None] * len(token_ids)
    prompts = []
    for ids, images, kinds, n in zip(token_ids, image_fields, types, n_images, strict=True):
        tokens = torch.tensor(ids, device=device)
        kinds = None if kinds is None else torch.as_tensor(kinds, device=device)
        positions = prompt_positions(backbone, tokens, kinds, images.get("image_grid_thw"))
        prompts.append(Prompt(tokens, positions, images, n, kinds))
    return prompts


def prompt_positions(
    backbone: nn.Module, token_ids: Tensor, token_types: Tensor | None, grid: Tensor | None
) -> Tensor:
    """Position ids of one unpadded prompt, from the model's own rule where images have a say in it."""
    if not hasattr(backbone, "get_rope_index"):
        return torch.arange(len(token_ids), device=token_ids.device)  # (P,)
    if grid is None or token_types is None:
        return torch.arange(len(token_ids), device=token_ids.device).expand(3, -1)  # (3, P)
    positions, _ = backbone.get_rope_index(  # type: ignore[operator]
        token_ids[None], mm_token_type_ids=token_types[None], image_grid_thw=grid
    )
    return positions[:, 0]  # (3, P)


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


@dataclass(frozen=True, eq=False)
class Pack:
    """The completions of a micro-batch behind their prompts, in one row of N tokens."""

    prompts: tuple[Prompt, ...]
    """Each once, in the order of their first completions."""
    input_ids: Tensor
    """(1, N)"""
    position_ids: Tensor
    """(1, N) or (3, 1, N)"""
    spans: tuple[Span, ...]
    predictors: Tensor
    """(scored tokens,): the place in the row that predicts each completion token, completion after completion."""
    labels: Tensor
    """(scored tokens,): those tokens."""
    scored: Tensor
    """(B, C): which entries of the completions they are."""

    @cached_property
    def model_inputs(self) -> ModelInputs:
        """Keyword arguments of the model's forward."""
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "attention_mask": PackMask.of(self.spans, self.input_ids.device),
            **image_tensors(self.prompts),
        }

    def per_token(self, values: Tensor) -> Tensor:
        """Values of the scored tokens at their places in (B, C), 0 elsewhere."""
        values = values[: len(self.labels)]
        zeros = values.new_zeros(self.scored.shape) + 0.0 * values.sum()  # a graph also where nothing is scored
        return zeros.masked_scatter(self.scored, values)


def pack(prompts: Sequence[Prompt], completion_ids: Tensor, completion_mask: Tensor) -> Pack:
    """The pack of B completions, `prompts[i]` being the prompt of row i of `completion_ids`, (B, C).

    Completions may end anywhere; what `completion_mask` leaves out is neither run nor scored. A group need not be
    whole, nor its rows side by side. The last token of a completion predicts nothing that is scored, so it is left
    out as well.
    """
    lengths = completion_mask.sum(1).tolist()
    groups: dict[Prompt, list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(row)
    tokens: list[Tensor] = []
    positions: list[Tensor] = []
    spans: list[Span] = []
    predictors: list[list[int]] = [[] for _ in prompts]
    for prompt, rows in groups.items():
        branches = {row: lengths[row] - 1 for row in rows if lengths[row] > 1}
        span = Span(spans[-1].end if spans else 0, len(prompt), tuple(branches.values()))
        tokens += [prompt.token_ids, *(completion_ids[row, :n] for row, n in branches.items())]
        positions += [prompt.position_ids, *map(prompt.following_positions, branches.values())]
        place = span.split
        for row in rows:
            if lengths[row]:
                n_tokens = branches.get(row, 0)
                predictors[row] = [span.split - 1, *range(place, place + n_tokens)]
                place += n_tokens
        spans.append(span)
    return Pack(
        prompts=tuple(groups),
        input_ids=torch.cat(tokens)[None],
        position_ids=torch.cat(positions, -1).unsqueeze(-2),
        spans=tuple(spans),
        predictors=torch.tensor(list(chain.from_iterable(predictors)), dtype=torch.long, device=completion_ids.device),
        labels=completion_ids[completion_mask.bool()],
        scored=completion_mask.bool(),
    )


def packed_log_probs(model: nn.Module, backbone: nn.Module, packed: Pack) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of the completions' tokens, (B, C), and entropies where the model's head gives them.

    `model` has TRL's fused head (`trl.trainer.utils.add_fused_lm_head`) and may be wrapped; `backbone` is the
    `base_model` inside it, whose states the head turns into log-probabilities.
    """
    predictors, labels = packed.predictors, packed.labels
    if not len(labels):  # heads take no empty batch; -100 is scored as 0, without a gradient
        predictors, labels = predictors.new_zeros(1), labels.new_full((1,), -100)
    with _only(backbone, predictors):
        outputs = model(**packed.model_inputs, shift_labels=labels[None], fused_lm_head=True)
    entropy = getattr(outputs, "entropy", None)
    return packed.per_token(outputs.log_probs[0]), None if entropy is None else packed.per_token(entropy[0])


@contextmanager
def _only(backbone: nn.Module, places: Tensor) -> Iterator[None]:
    """The backbone gives the states at these places of its row, in this order: all that the head has to see."""

    def select(module: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[:, places]  # (1, scored tokens, hidden)
        return output

    handle = backbone.register_forward_hook(select)
    try:
        yield
    finally:
        handle.remove()
