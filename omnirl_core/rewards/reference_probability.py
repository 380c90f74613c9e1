"""How probable the policy finds the reference after the completion's thought: a reward without a verifier.

Only the trainer has the policy: omnirl_core/trainer/reference_probability.py asks it, and hands what it says to the
scorer as a column of the batch. Nothing here imports torch.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from omnirl_core.rewards.reward import Reward, on_answer, reads_columns
from omnirl_core.text import reference_texts
from omnirl_core.types import check_choice

COLUMN = "reference_probabilities"
"""Of each completion a tuple of one `ReferenceTokens` a reference; an empty one where it has no answer part."""
VARIANTS = ("rlpr", "verifree")
SPREAD_SHARE = 0.5
"""RLPR's share of the moving average of the spread, below which a prompt is left out."""


@dataclass(frozen=True)
class ReferenceTokens:
    """What the policy makes of one reference, token by token; probabilities in [0, 1]."""

    after: tuple[float, ...]
    """In the place of the completion's answer, after its thought."""
    alone: tuple[float, ...] = ()
    """In the same place without the thought; empty where nobody asks for it."""

    def score(self, variant: str) -> float:
        """RLPR's debiased mean, or VeriFree's product, in [0, 1].

        >>> tokens = ReferenceTokens(after=(0.5, 1.0), alone=(0.25, 0.25))
        >>> tokens.score("rlpr"), tokens.score("verifree")
        (0.5, 0.5)
        """
        if variant == "verifree":
            return math.prod(self.after)
        return min(1.0, max(0.0, _mean(self.after) - _mean(self.alone)))


def _mean(values: tuple[float, ...]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


@reads_columns(COLUMN)
@on_answer
def reference_probability(
    answer: str,
    solution: object,
    *,
    reference_probabilities: object = None,
    variant: str = "rlpr",
    min_spread: float | None = None,
) -> float | None:
    """Probability of the reference in the answer's place, given the thought, in [0, 1]. The best reference counts.

    What stands in the answer is not read. 0.0 where there is no answer part; None without a readable reference, and
    where no policy is there to be asked: everywhere but in OmniGRPOTrainer.

    Args:
        answer: only whether there is one counts.
        solution: the reference or references.
        reference_probabilities: the policy's, from the trainer.
        variant: `rlpr` (arXiv 2506.18254), the mean probability of the reference's tokens minus the same without the
            thought, clipped at 0; `verifree` (arXiv 2505.21493), the product of their probabilities.
        min_spread: prompts are left out whose standard deviation of this reward is below this share of its moving
            average; 0 leaves none out. By default .5 for `rlpr`, as its authors have it, and 0 for `verifree`.

    >>> reference_probability("4", "four", reference_probabilities=(ReferenceTokens((0.75, 0.25), (0.25, 0.25)),))
    0.25
    """
    check_choice("variant", variant, VARIANTS)
    if not isinstance(reference_probabilities, tuple) or reference_texts(solution) is None:
        return None
    return max((one.score(variant) for one in reference_probabilities), default=0.0)


reference_probability.needs_policy = True  # type: ignore[attr-defined]


def policy_rewards(rewards: Iterable[object]) -> list[Reward]:
    """Those of the rewards, and of their gates, that can judge only where there is a policy."""
    given = [one for one in rewards if isinstance(one, Reward)]
    known = {one.name: one for reward in given for one in (reward, *reward.gates)}
    return [one for one in known.values() if one.needs_policy]


def wants_alone(reward: Reward) -> bool:
    """Whether it compares with the reference's probability without a thought."""
    return reward.settings.get("variant", VARIANTS[0]) == "rlpr"


def spread_share(reward: Reward) -> float:
    """The share of the average spread below which a prompt is left out, 0 for none."""
    given = reward.settings.get("min_spread")
    return (SPREAD_SHARE if wants_alone(reward) else 0.0) if given is None else float(given)
