"""Rewards for GRPO that judge one sample, importable without torch."""

from omnirl_core.rewards.format import think_format
from omnirl_core.rewards.load import load_rewards
from omnirl_core.rewards.overlap import bleu, meteor, overlap, rouge
from omnirl_core.rewards.reward import Reward

__all__ = ["Reward", "bleu", "load_rewards", "meteor", "overlap", "rouge", "think_format"]
