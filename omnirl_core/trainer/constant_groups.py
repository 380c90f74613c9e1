"""Groups without signal: all completions of a prompt earned the same, so none of them is to be preferred."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

NOISE = 1e-6
"""Rewards are float32, and their weighted sums equal where they differ by less than this part of their terms."""


def constant_groups(rewards: Tensor, weights: Sequence[float], normalize_first: bool = False) -> Tensor:
    """Whether each group's summed reward is the same for all of its completions: (groups,), bool.

    TRL 1.16 asks whether the standard deviation is 0, in float32: eight times 0.2 + 1.0 has a deviation of 1e-7, and
    counts as a group with signal. Here it is asked of the rewards.

    Args:
        rewards: `(groups, G, K)`, NaN where a reward abstains. A completion of which all K abstain is left out.
        weights: K of them.
        normalize_first: each reward is normalised within its group before the sum (`normalize_then_sum`).

    >>> constant_groups(torch.tensor([[[0.2, 1.0]] * 8, [[0.2, 1.0]] * 7 + [[0.3, 1.0]]]), [1.0, 1.0])
    tensor([ True, False])
    """
    judged = ~rewards.isnan().all(-1)  # (groups, G)
    terms = rewards.double()
    if normalize_first:
        terms = _normalized(terms)
    terms = terms * torch.tensor(list(weights), dtype=torch.double, device=rewards.device)
    return _is_constant(terms.nansum(-1), terms.abs().nansum(-1), judged)


def settle_constant_groups(trainer: Any, output: dict[str, Any], rewards: Tensor) -> None:
    """Count the groups without signal from all ranks' rewards, `(ranks*B*G, K)`, and set their advantages to 0.

    In `output`, which the step learns from, and in the log of completions. With a plain GRPOConfig, TRL 1.16's numbers
    stay: rounding gives such a group a deviation of 1e-7, and its completions advantages of .001.
    """
    sets_zero = trainer.settings.zero_constant_groups
    if sets_zero is None:
        return
    training = trainer.model.training
    size = trainer.num_generations if training else trainer.num_generations_eval
    is_constant = constant_groups(
        rewards.view(-1, size, rewards.shape[-1]),
        trainer.reward_weights.tolist(),
        normalize_first=trainer.multi_objective_aggregation == "normalize_then_sum",
    ).repeat_interleave(size)  # (ranks*B*G,)
    metrics = trainer._metrics["train" if training else "eval"]
    metrics["frac_reward_zero_std"][-1] = is_constant.float().mean().item()
    if not sets_zero:
        return
    n = len(output["advantages"])
    own = is_constant[trainer.accelerator.process_index * n :][:n]
    output["advantages"] = output["advantages"].masked_fill(own, 0.0)
    logged = trainer._logs["advantages"]
    for place in range(1, min(len(is_constant), len(logged)) + 1):  # the batch's are the last ones
        if is_constant[-place]:
            logged[-place] = 0.0


def _normalized(rewards: Tensor) -> Tensor:
    """(groups, G, K), each reward with mean 0 and deviation 1 within its group; 0 where it is constant there."""
    is_constant = _is_constant(rewards, rewards.abs(), ~rewards.isnan())  # (groups, K)
    centred = rewards - rewards.nanmean(1, keepdim=True)
    deviation = centred.square().nanmean(1, keepdim=True).sqrt()
    return torch.where(is_constant[:, None], 0.0 * centred, centred / deviation)


def _is_constant(values: Tensor, sizes: Tensor, counted: Tensor) -> Tensor:
    """Along dimension 1, of the values that are counted; true where none is. `sizes`: of the terms they are sums of."""
    infinity = torch.inf
    low = values.masked_fill(~counted, infinity).amin(1)
    high = values.masked_fill(~counted, -infinity).amax(1)
    return high - low <= NOISE * sizes.masked_fill(~counted, 0.0).amax(1)
