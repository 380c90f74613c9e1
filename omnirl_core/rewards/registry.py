"""The scorers that rewards.yaml can name, each imported when it is named."""

import importlib

from omnirl_core.rewards.settings import Scorer
from omnirl_core.type_checks import nearest

SCORERS = {
    "think_format": "omnirl_core.rewards.format:think_format",
    "length_band": "omnirl_core.rewards.length:length_band",
    "repetition": "omnirl_core.rewards.length:repetition",
    "bleu": "omnirl_core.rewards.overlap.bleu:bleu",
    "rouge": "omnirl_core.rewards.overlap.rouge:rouge",
    "meteor": "omnirl_core.rewards.overlap.meteor:meteor",
    "overlap": "omnirl_core.rewards.overlap.overlap:overlap",
    "exact": "omnirl_core.rewards.answers.answers:exact",
    "choice": "omnirl_core.rewards.answers.answers:choice",
    "yes_no": "omnirl_core.rewards.answers.answers:yes_no",
    "number": "omnirl_core.rewards.answers.answers:number",
    "math": "omnirl_core.rewards.answers.answers:math",
    "edit_similarity": "omnirl_core.rewards.answers.answers:edit_similarity",
    "answer": "omnirl_core.rewards.answers.answers:answer",
    "answer_or_overlap": "omnirl_core.rewards.answers.default_judge:answer_or_overlap",
    "box_iou": "omnirl_core.rewards.grounding:box_iou",
    "box_f1": "omnirl_core.rewards.grounding:box_f1",
    "box_ap": "omnirl_core.rewards.grounding:box_ap",
    "code": "omnirl_core.rewards.code.code:code",
}
"""Name -> `module:function`, so that what only one reward needs is imported only for it."""


def scorer_named(name: str) -> Scorer:
    """The scorer of that name; LookupError with the nearest name if there is none.

    >>> scorer_named("box_iou").__name__
    'box_iou'
    """
    if name not in SCORERS:
        raise LookupError(f"no reward '{name}'{nearest(name, SCORERS)}")
    module, _, function = SCORERS[name].partition(":")
    return getattr(importlib.import_module(module), function)
