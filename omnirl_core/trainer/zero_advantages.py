"""Completions whose advantage is 0 are left out of a step's forward and backward pass, where they add nothing to it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

from omnirl_core.types import ModelInputs, Settings

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

LogProbs: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]
"""Log-probabilities and entropies, (B, C) each, and the router's loss, as TRL 1.16's pass gives them."""


class ZeroAdvantages:
    """`skip_zero_advantages: true` of a run.

    Every loss type of TRL 1.16 multiplies a completion's terms by its advantage and its mask. Where either is 0
    throughout, so is the gradient, and the forward pass goes over the other completions only. TRL's loss is then
    computed over all of them as before: what was left out has a probability ratio of 1, and counts in every
    denominator. Each rank forwards at least one completion of a micro-batch, so ranks meet as often as before.

    What needs the policy's values of every completion switches it off: a KL term (`beta`), an entropy bonus,
    `top_entropy_quantile`, a router loss; and so do torch_compile, which would compile for each number of completions,
    and sequences split across devices.
    """

    def __init__(self, trainer: "OmniGRPOTrainer | None"):
        self._trainer: Any = trainer
        self._forwarded: Tensor | None = None
        """Of the micro-batch at hand: numbers of the completions to forward, (n,); None where it is all of them."""
        self._ratio: Tensor | None = None
        """Their log-probabilities in the old policy, (B, C), at which ratios are 1."""

    @property
    def is_exact(self) -> bool:
        """Whether the run's loss needs nothing of completions whose advantage is 0."""
        trainer = self._trainer
        if trainer is None or not trainer.settings.skip_zero_advantages:
            return False
        needed = (
            trainer.beta != 0.0,
            trainer._entropy_bonus_enabled,
            trainer.top_entropy_quantile < 1.0,
            trainer.aux_loss_enabled,
            trainer.args.torch_compile,
            getattr(trainer.accelerator, "parallelism_config", None) is not None,
        )
        return not any(needed)

    @contextmanager
    def loss_of(self, inputs: ModelInputs) -> Iterator[ModelInputs]:
        """A micro-batch's loss; gives its columns, of the completions that the forward pass is of."""
        if not self.is_exact or not self._trainer.model.training:
            yield inputs
            return
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)  # (B, C)
        kept = with_signal(inputs["advantages"], mask, inputs["prompt_mask"])
        self._forwarded = None if kept.all() else kept.nonzero()[:, 0]
        self._ratio = inputs.get("old_per_token_logps")
        try:
            if self._forwarded is None:
                yield inputs
            else:  # what the trainer sends along with each sample
                rows = self._forwarded.tolist()
                yield {name: _rows_of(value, rows) for name, value in inputs.items() if isinstance(value, list)}
            self._log(kept, mask)
        finally:
            self._forwarded = self._ratio = None

    @property
    def leaves_out(self) -> bool:
        return self._forwarded is not None

    def log_probs(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        settings: Settings,
        fields: Settings,
    ) -> LogProbs:
        """What the trainer's pass gives of the completions that it has to see, at their places among all."""
        from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer  # which needs this module

        assert self._forwarded is not None
        rows, old, self._forwarded = self._forwarded, self._ratio, None
        # the class's own: a subclass that overrides it is in the midst of a call
        values, entropies, aux_loss = OmniGRPOTrainer._get_per_token_logps_and_entropies(
            self._trainer, model, input_ids[rows], attention_mask[rows], logits_to_keep,
            **settings, **fields_of(fields, rows.tolist()),
        )  # fmt: skip
        zeros = values.new_zeros(len(input_ids), values.shape[1])
        everywhere = zeros if old is None else old.to(values.dtype)
        values = everywhere.index_copy(0, rows, values)
        if entropies is not None:
            entropies = zeros.to(entropies.dtype).index_copy(0, rows, entropies)
        return values, entropies, aux_loss

    def _log(self, kept: Tensor, mask: Tensor) -> None:
        """TRL has counted the entropy of what was left out as 0: the mean is of what was forwarded."""
        metrics, accelerator = self._trainer._metrics["train"], self._trainer.accelerator
        counts = torch.stack([part.sum().float() for part in (mask, mask[kept], kept, torch.ones_like(kept))])
        n_tokens, n_forwarded, n_kept, n_samples = accelerator.reduce(counts, reduction="sum").tolist()
        if n_forwarded < n_tokens:
            metrics["entropy"][-1] *= n_tokens / n_forwarded if n_forwarded else math.nan
        metrics["completions/skipped_ratio"].append(1 - n_kept / n_samples)


def with_signal(advantages: Tensor, mask: Tensor, prompt_mask: Tensor) -> Tensor:
    """Which completions can have a gradient: (B,), bool; the shortest one where none can.

    Args:
        advantages: (B,), or (B, C).
        mask: (B, C), which tokens the loss is of.
        prompt_mask: (B, P)

    >>> with_signal(torch.tensor([0.0, 0.5, 0.5]), torch.tensor([[1], [1], [0]]), torch.ones(3, 2)).tolist()
    [False, True, False]
    """
    kept = (advantages != 0).flatten(1).any(1) if advantages.ndim > 1 else advantages != 0
    kept = kept & mask.bool().any(1)
    if not kept.any():
        kept[(prompt_mask.sum(1) + mask.sum(1)).argmin()] = True
    return kept


def fields_of(fields: Settings, rows: list[int]) -> ModelInputs:
    """A batch's image tensors and other fields, of these samples; cut as TRL 1.16 cuts them where it shuffles."""
    split = split_pixel_values_by_grid({name: value for name, value in fields.items() if value is not None})
    return unsplit_pixel_values_by_grid({name: _rows_of(value, rows) for name, value in split.items()})


def _rows_of(value: Any, rows: list[int]) -> Any:
    return [value[row] for row in rows] if isinstance(value, list) else value[rows]
