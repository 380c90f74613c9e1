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

from omnirl_core.models import ImageTensors, image_tensors, split_images
from omnirl_core.types import ModelInputs, Settings


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt as the model takes it, held once for all its completions; two are the same if they are one object."""

    token_ids: Tensor
    """(P,)"""
    position_ids: Tensor
    """(P,), or (3, P) where the model rotates by time, height and width."""
    images: ImageTensors = field(default_factory=dict)
    n_images: int = 0
    token_types: Tensor | None = None
    """(P,), which tokens stand for images."""
    types_name: str = "mm_token_type_ids"
    """What the processor and the model call them."""

    def __len__(self) -> int:
        return len(self.token_ids)

    @cached_property
    def _after(self) -> int:
        return int(self.position_ids.max()) + 1

    @cached_property
    def blocks(self) -> Tensor | None:
        """(P,), the number of the image whose tokens all see each other, -1 for text; None where none do (Gemma 3)."""
        if self.types_name != TYPES_OF_BLOCKS or self.token_types is None or not self.images:
            return None
        is_image = self.token_types == 1
        begins = is_image & ~F.pad(is_image, (1, 0))[:-1]
        return torch.where(is_image, begins.cumsum(0) - 1, -1)

    def following_positions(self, n_tokens: int) -> Tensor:
        """Position ids of tokens after the prompt, (n,) or (3, n): on from the largest of all axes."""
        positions = torch.arange(self._after, self._after + n_tokens, device=self.position_ids.device)
        return positions.expand(*self.position_ids.shape[:-1], -1)


TYPES_OF_BLOCKS = "token_type_ids"
"""Token types by which Gemma 3 lets the tokens of an image see each other."""


def encode_prompts(
    backbone: nn.Module,
    token_ids: Sequence[Sequence[int]],
    fields: Settings,
    n_images: Sequence[int],
    device: torch.device | str = "cpu",
) -> list[Prompt]:
    """Prompts from the batch that a processor made of them: `fields` is what it gave besides the token ids."""
    image_fields = split_images(backbone, token_ids, fields, n_images, device)
    name = TYPES_OF_BLOCKS if fields.get(TYPES_OF_BLOCKS) is not None else "mm_token_type_ids"
    types = fields.get(name) or [None] * len(token_ids)
    prompts = []
    for ids, images, kinds, n in zip(token_ids, image_fields, types, n_images, strict=True):
        tokens = torch.tensor(ids, device=device)
        kinds = None if kinds is None else torch.as_tensor(kinds, device=device)
        positions = prompt_positions(backbone, tokens, kinds, images.get("image_grid_thw"))
        prompts.append(Prompt(tokens, positions, images, n, kinds, name))
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
    blocks: Tensor | None = field(default=None, compare=False)
    """(P,), which tokens of the prompt see each other whatever their order; see `Prompt.blocks`."""

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

    @cached_property
    def sees(self) -> Tensor:
        """(P, P), which tokens of the prompt see which, whatever the window."""
        places = torch.arange(self.prompt, device=None if self.blocks is None else self.blocks.device)
        before = places[:, None] >= places
        if self.blocks is None:
            return before
        return before | ((self.blocks[:, None] == self.blocks) & (self.blocks >= 0))


class PackMask(Tensor):
    """The mask of a pack, for models that hand their mask on to `scaled_dot_product_attention`.

    It has the shape of a ready-made mask, (1, 1, N, N), but no storage: it stands for its spans, and that function
    computes with them. Anything else that wants to compute with it is refused, since it would read no mask at all.
    """

    spans: tuple[Span, ...]
    window: int | None
    """Tokens that a token sees, itself and those before it; None for all (`sliding_window` of the model's layers)."""

    @staticmethod
    def of(spans: Sequence[Span], device: torch.device, window: int | None = None) -> "PackMask":
        n_tokens = spans[-1].end
        storage = torch.zeros((), dtype=torch.bool, device=device).expand(1, 1, n_tokens, n_tokens)
        mask = storage.as_subclass(PackMask)
        mask.spans, mask.window = tuple(spans), window
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
        parts.append(_prompt_attention(query, key, value, span, attn_mask.window, settings))
        if span.branches:
            parts.append(_branch_attention(query, key, value, span, attn_mask.window, settings))
    return torch.cat(parts, 2)


def _autocast(*states: Tensor) -> tuple[Tensor, ...]:
    """What autocast does to the inputs of attention. torch 2.14: `CausalBias` compares dtypes before it does."""
    device = states[0].device.type
    # torch 2.11 knows no autocast on the meta device, where `estimate_memory` runs a layer
    if device == "meta" or not torch.is_autocast_enabled(device):
        return states
    dtype = torch.get_autocast_dtype(device)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in states)


def _prompt_attention(
    query: Tensor, key: Tensor, value: Tensor, span: Span, window: int | None, settings: Mapping[str, Any]
) -> Tensor:
    """(1, heads, P, head size)"""
    q, k, v = (states[:, :, span.start : span.split] for states in (query, key, value))  # (1, heads, P, size)
    if window is not None and window >= span.prompt:
        window = None
    if span.blocks is None and window is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, **settings)
    mask = span.sees.to(q.device)
    if window is not None:
        mask = mask & _within(window, span.prompt, 0, q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **settings)


def _within(window: int, n: int, before: int, device: torch.device) -> Tensor:
    """(n, before + n): which of `before` tokens and then their own are not too far behind each of n tokens."""
    keys, own = torch.arange(before + n, device=device), torch.arange(before, before + n, device=device)
    return keys > own[:, None] - window


def _branch_attention(
    query: Tensor, key: Tensor, value: Tensor, span: Span, window: int | None, settings: Mapping[str, Any]
) -> Tensor:
    """(1, heads, branch tokens, head size): every branch over its prompt and itself."""
    q, k, v = (_folded(states, span) for states in (query, key, value))  # (n, heads, longest, size)
    n_seen = span.prompt if window is None else min(span.prompt, window - 1)  # P, or what a window leaves of it
    k, v = (
        torch.cat([states[:, :, span.split - n_seen : span.split].expand(len(span.branches), -1, -1, -1), own], 2)
        for states, own in ((key, k), (value, v))
    )  # (n, heads, P + longest, size)
    # token j of a branch sees the prompt and j + 1 tokens of its own; padding comes after all tokens
    mask: Any = causal_lower_right(span.longest, n_seen + span.longest)
    if window is not None and n_seen + span.longest > window:
        causal = torch.ones(span.longest, n_seen + span.longest, dtype=torch.bool, device=q.device).tril(n_seen)
        mask = causal & _within(window, span.longest, n_seen, q.device)
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

    def model_inputs(self, window: int | None = None) -> ModelInputs:
        """Keyword arguments of the model's forward; `window` is that of its sliding layers, where it has some."""
        device = self.input_ids.device
        mask: object = PackMask.of(self.spans, device)
        if window is not None:
            mask = {"full_attention": mask, "sliding_attention": PackMask.of(self.spans, device, window)}
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "attention_mask": mask,
            **image_tensors([prompt.images for prompt in self.prompts]),
        }

    def per_token(self, values: Tensor) -> Tensor:
        """Values of the scored tokens at their places in (B, C), 0 elsewhere."""
        values = values[: len(self.labels)]
        zeros = values.new_zeros(self.scored.shape) + 0.0 * values.sum()  # a graph also where nothing is scored
        return zeros.masked_scatter(self.scored, values)


def rows_by_prompt(prompts: Sequence[Prompt]) -> dict[Prompt, list[int]]:
    """Each distinct prompt -> its rows, in the order of their first ones."""
    rows: dict[Prompt, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    return rows


def pack(prompts: Sequence[Prompt], completion_ids: Tensor, completion_mask: Tensor) -> Pack:
    """The pack of B completions, `prompts[i]` being the prompt of row i of `completion_ids`, (B, C).

    Completions may end anywhere; what `completion_mask` leaves out is neither run nor scored. A group need not be
    whole, nor its rows side by side. The last token of a completion predicts nothing that is scored, so it is left
    out as well.
    """
    lengths = completion_mask.sum(1).tolist()
    groups = rows_by_prompt(prompts)
    tokens: list[Tensor] = []
    positions: list[Tensor] = []
    spans: list[Span] = []
    predictors: list[list[int]] = [[] for _ in prompts]
    for prompt, rows in groups.items():
        branches = {row: lengths[row] - 1 for row in rows if lengths[row] > 1}
        span = Span(spans[-1].end if spans else 0, len(prompt), tuple(branches.values()), prompt.blocks)
        tokens += [prompt.token_ids, *(completion_ids[row, :n] for row, n in branches.items())]
        following = prompt.following_positions(span.longest)
        positions += [prompt.position_ids, *(following[..., :n] for n in branches.values())]
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
        inputs = packed.model_inputs(sliding_window(backbone))
        outputs = model(**inputs, shift_labels=labels[None], fused_lm_head=True)
    entropy = getattr(outputs, "entropy", None)
    return packed.per_token(outputs.log_probs[0]), None if entropy is None else packed.per_token(entropy[0])


def sliding_window(backbone: nn.Module) -> int | None:
    """Tokens that a token sees in the model's layers of sliding-window attention; None where it has none."""
    config: Any = backbone.config.get_text_config()  # type: ignore[union-attr, operator]
    return config.sliding_window if "sliding_attention" in (getattr(config, "layer_types", None) or ()) else None


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
