"""What each cheap hack is, and what to change where a reward pays for it."""

_SHORTER = "set power: 2 for overlap, or judge short answers by answer or exact"
_CONTENT = f"leave light of overlap below 1, so that words of the question weigh little; {_SHORTER}"
_ONE = "take a judge that wants one answer: choice, number or answer; for boxes pick: only"
ADVICE = {
    "nothing": ("no completion at all", "check the weights: a negative one pays for silence"),
    "empty tags": ("the tags with nothing in them", "lower the weight of think_format"),
    "form only": (
        "the right tags around a full stop",
        "lower the weight of think_format to 0.2 or less of accuracy",
    ),
    "tag soup": ("tags repeated and nested", "use think_format, which wants each tag once"),
    "commas": (
        "punctuation in place of words",
        "count tokens, not characters; gate length_band by the accuracy",
    ),
    "common words": ("the most frequent words of a language", _SHORTER),
    "one word": (
        "one word over and over",
        "add repetition with a negative weight, or set power: 2 for overlap",
    ),
    "echo": ("the question, repeated as the answer", _SHORTER),
    "question alone": ("the question as the answer, after a thought", _CONTENT),
    "question stated": ("the question as a statement that lacks the fact", _CONTENT),
    "guessed fact": ("the question as a statement with a fact of the wrong kind", _CONTENT),
    "frame of answers": ("how answers of this data begin, and no more", _CONTENT),
    "ramble": (
        "a long thought and an evasive answer",
        "gate length_band by the accuracy (gated_by, gate_at)",
    ),
    "all options": ("every option of a multiple choice", _ONE),
    "all numbers": ("every number up to 100", _ONE),
    "whole image": (
        "a box around the whole image",
        "set threshold: 0.5 for box_iou, or lower the format's weight",
    ),
    "all boxes": (
        "a grid of boxes over the image",
        "set pick: only for box_iou, count_penalty: true for box_ap",
    ),
    "no boxes": (
        "an empty list of boxes",
        "balance samples with and without objects, or lower the weight of empty ones",
    ),
    "exit code 0": ("a program that ends before its tests", "use code, which reads the tests' output"),
    "equals all": ("a value that equals every other", "use code, which compares outside of the program"),
}
"""Hack of `hacks.BLIND` -> (what it is, what to change)."""


def advice(hack: str, payer: str) -> str:
    """One line about a hack that pays, and the reward that pays most for it."""
    what, change = ADVICE.get(hack, ("a completion that knows the question only", "look at what this reward reads"))
    return f"  {hack}: {what}; {payer} pays for it. {change[0].upper()}{change[1:]}."
