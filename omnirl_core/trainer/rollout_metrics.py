"""What a rollout costs, and how far its log-probabilities lie from the trainer's, by modality."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from trl import GRPOConfig

from omnirl_core.types import Settings

if TYPE_CHECKING:
    from omnirl_core.trainer.grpo_trainer import OmniGRPOTrainer

logger = logging.getLogger(__name__)

MODALITIES = ("text", "image", "multi-image")
"""Of samples without an image, with one, and with several."""
BOUND = 0.05
"""Mean difference of log-probabilities a token above which a run is warned. With the tiny policy in fp32, vLLM in fp32
differs by less than 1e-4, and in bf16 by .006; where it sees other prompts or images, by far more.
"""
UNCHANGED = {"top_p": (1.0,), "top_k": (0, -1, None), "min_p": (0.0, None), "repetition_penalty": (1.0,)}
"""Settings of sampling at which vLLM's log-probabilities are the policy's own."""


class RolloutMetrics:
    """Logs a trainer's rollouts; see `log_gap` and `log_speed` for the names.

    Args:
        trainer: OmniGRPOTrainer, once TRL has made it; None logs nothing.
    """

    def __init__(self, trainer: "OmniGRPOTrainer | None"):
        self._trainer: Any = trainer
        self._is_warned = False

    def log_gap(self, output: Settings, n_images: Sequence[int]) -> None:
        """Log the gap between the rollout's and the trainer's log-probabilities; nothing where one of them is missing.

        `sampling/MODALITY/logp_difference/mean` and `/max` are of the absolute difference a completion token, and
        `sampling/MODALITY/importance_ratio/mean` is the mean of exp(trainer's - rollout's), before TRL masks or cuts
        it. MODALITY is one of MODALITIES; those that a batch does not have are left out of the log. All ranks count.

        Args:
            output: what TRL buffers of a generation batch, `(B*G, C)` where it is of tokens.
            n_images: of each of the B*G samples of this rank.
        """
        sampled, own = output.get("sampling_per_token_logps"), output.get("old_per_token_logps")
        if self._trainer is None or sampled is None or own is None:
            return
        mask = output["completion_mask"].bool()
        if "tool_mask" in output:
            mask = mask & output["tool_mask"].bool()
        kinds = torch.tensor([min(n, 2) for n in n_images], device=own.device)
        sums = gap_sums(own, sampled, mask, kinds)
        gathered = self._trainer.accelerator.gather(sums[None])  # (ranks, 3, 4)
        totals, largest = gathered.sum(0), gathered[..., 3].amax(0)
        means = {}
        for kind, name in enumerate(MODALITIES):
            n_tokens, gap, ratio, _ = totals[kind].tolist()
            if n_tokens:
                means[name] = gap / n_tokens
                self._append(f"sampling/{name}/logp_difference/mean", means[name])
                self._append(f"sampling/{name}/logp_difference/max", largest[kind].item())
                self._append(f"sampling/{name}/importance_ratio/mean", ratio / n_tokens)
        self._warn_of(means)

    def log_speed(
        self, completion_ids: Sequence[Sequence[int]], tool_mask: Sequence[Sequence[int]] | None, seconds: float
    ) -> None:
        """Log `rollout/tokens_per_second`: completion tokens of all ranks by the seconds of the slowest.

        Args:
            completion_ids: of this rank's samples.
            tool_mask: 0 at the tokens that tools wrote, which do not count; None without tools.
            seconds: of the rollout on this rank, vLLM's new weights included.
        """
        if self._trainer is None:
            return
        n_tokens = sum(map(len, completion_ids)) if tool_mask is None else sum(map(sum, tool_mask))
        accelerator = self._trainer.accelerator
        own = torch.tensor([[float(n_tokens), seconds]], device=accelerator.device)
        of_ranks = accelerator.gather(own)  # (ranks, 2)
        self._append("rollout/tokens_per_second", (of_ranks[:, 0].sum() / of_ranks[:, 1].max()).item())

    def _append(self, name: str, value: float) -> None:
        mode = "train" if self._trainer.model.training else "eval"
        self._trainer._metrics[mode][name].append(value)

    def _warn_of(self, means: Mapping[str, float]) -> None:
        found = {name: mean for name, mean in means.items() if mean > BOUND}
        if not found or self._is_warned or not self._trainer.use_vllm:  # a rollout_func may have its own
            return
        self._is_warned = True
        if self._trainer.accelerator.is_main_process:
            logger.warning(gap_warning(found, means, self._trainer.args))


def gap_sums(own: Tensor, sampled: Tensor, mask: Tensor, kinds: Tensor) -> Tensor:
    """(3, 4): of each modality the number of tokens, the sum of differences, the sum of ratios, the largest difference.

    Tokens that the rollout has no log-probability of (NaN) are left out.

    Args:
        own: the trainer's log-probabilities, (B*G, C).
        sampled: the rollout's, (B*G, C).
        mask: tokens that the policy wrote, (B*G, C).
        kinds: place in MODALITIES of each sample, (B*G,).

    >>> own, sampled = torch.tensor([[-1.0, -2.0], [-1.0, -9.0]]), torch.tensor([[-1.0, -2.5], [-1.0, -3.0]])
    >>> mask, kinds = torch.tensor([[True, True], [True, False]]), torch.tensor([0, 1])
    >>> gap_sums(own, sampled, mask, kinds)[:2].round(decimals=2).tolist()
    [[2.0, 0.5, 2.65, 0.5], [1.0, 0.0, 1.0, 0.0]]
    """
    difference = (own - sampled).double()
    counted = mask & ~difference.isnan()  # (B*G, C)
    difference = difference.masked_fill(~counted, 0.0)
    per_sample = torch.stack(
        [
            counted.sum(1).double(),
            difference.abs().sum(1),
            (difference.exp() * counted).sum(1),
            difference.abs().amax(1),
        ],
        dim=1,
    )  # (B*G, 4)
    found = per_sample.new_zeros(len(MODALITIES), 4)
    for kind in range(len(MODALITIES)):
        of_kind = per_sample[kinds == kind]
        if len(of_kind):
            found[kind] = torch.cat([of_kind[:, :3].sum(0), of_kind[:, 3:].amax(0)])
    return found


def gap_warning(found: Mapping[str, float], means: Mapping[str, float], args: GRPOConfig) -> str:
    """One message with the setting to change: `found` are those of the means by modality that are above BOUND."""
    values = ", ".join(f"{value:.2g} for {name} samples" for name, value in found.items())
    agrees = means.get("text", math.inf) <= BOUND
    return (
        f"log-probabilities of vLLM and of the trainer differ by {values} (mean of a token, warned above {BOUND:g}"
        f"{'; samples without an image agree' if agrees else ''}), so that the run learns from another policy's "
        f"answers: {_setting_to_change(args)}"
    )


def _setting_to_change(args: GRPOConfig) -> str:
    changed = [f"{name}: {getattr(args, name)}" for name, idle in UNCHANGED.items() if getattr(args, name) not in idle]
    if changed:
        return f"{', '.join(changed)} changes vLLM's probabilities and not the trainer's; remove it"
    if args.vllm_mode == "server":
        return (
            "start the server with the policy's --dtype and --logprobs-mode processed_logprobs, or, where it has them, "
            "with --model-impl transformers"
        )
    return "set vllm_model_impl: transformers, or use_vllm: false"
