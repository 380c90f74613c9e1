"""Groups without signal: all completions of a prompt earned the same, so none of them is to be preferred."""

from collections.abc import Sequence

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
