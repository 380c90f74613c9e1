"""Overlap of an answer with its reference: BLEU, ROUGE, METEOR and their mean, with content weights."""

from omnirl_core.rewards.overlap.bleu import bleu
from omnirl_core.rewards.overlap.meteor import meteor
from omnirl_core.rewards.overlap.overlap import overlap
from omnirl_core.rewards.overlap.rouge import rouge

__all__ = ["bleu", "meteor", "overlap", "rouge"]
