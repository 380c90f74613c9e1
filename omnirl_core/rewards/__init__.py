"""Rewards for GRPO, each a function that judges one sample, importable without torch.

    from omnirl_core.rewards import load_rewards
    rewards = load_rewards("recipes/rewards/unified_text.yaml")   # what trl.GRPOTrainer takes as reward_funcs,
    weights = [reward.weight for reward in rewards]                      # and as reward_weights

Scorers of boxes and answers are imported when they are first asked for; the scorer `code` is imported from the
package of its name, omnirl_core.rewards.code.
"""

from typing import Any

from omnirl_core.rewards.format import length_band, repetition, think_format
from omnirl_core.rewards.load import RewardsError, load_rewards
from omnirl_core.rewards.overlap.metrics import bleu, meteor, rouge
from omnirl_core.rewards.overlap.overlap import overlap
from omnirl_core.rewards.registry import SCORERS, describe_rewards, scorer_named
from omnirl_core.rewards.reward import Reward, on_answer, reads_columns

__all__ = [
    "Reward",
    "RewardsError",
    "bleu",
    "describe_rewards",
    "length_band",
    "load_rewards",
    "meteor",
    "on_answer",
    "overlap",
    "reads_columns",
    "repetition",
    "rouge",
    "think_format",
]


def __getattr__(name: str) -> Any:
    if name in SCORERS and name != "code":
        return scorer_named(name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
