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
from torch import Tensor, nn

from omnirl_core.trainer.shared_prefix.attention import PackMask, Span
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
