"""Overlap of an answer with its reference: BLEU, ROUGE, METEOR and their mean, with content weights."""

from omnirl_core.rewards.overlap.metrics import bleu, meteor, rouge
from omnirl_core.rewards.overlap.overlap import overlap

__all__ = ["bleu", "meteor", "overlap", "rouge"]
