"""Cheap hacks: completions that cost a policy nothing to find, and what each is made of.

A blind hack knows the question and nothing else. The others are built from the gold answer, which no policy has;
they show what a reward makes of right words in a wrong answer. `scripts/hack_table.py` and `omnirl check-rewards`
say what they earn.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sample:
    """A question, its gold, a right answer, and wrong answers of the same kind."""

    problem: str
    solution: Any
    answer: str
    decoys: tuple[str, ...]
    task: str | None = "text"
    picture: tuple[int, int] = (640, 480)

    @property
    def right(self) -> str:
        return formed(self.answer, think=THOUGHT)


def formed(answer: str, think: str = "ok") -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


THOUGHT = (
    "The question asks for one thing, so first find where it could be, then look closely at each of these places, "
    "compare what stands there with the words of the question, drop whatever does not fit, and say what is left in "
    "the form that was asked for, neither more nor less."
)
COMMON = "the of and a to in is you that it he was for on are as with his they at be this have from or one had by not"
CHINESE_COMMON = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过"
)
RAMBLE = " ".join(
    f"Then we look at part {i} and find it {word} again." for i, word in enumerate(COMMON.split() * 2)
)
EXIT = "```python\nimport os, sys\nprint(2)\nsys.stdout.flush()\nos._exit(0)\n```"
ALWAYS_EQUAL = (
    "```python\nclass Any(int):\n    __eq__ = lambda s, o: True\ndef second(values): return Any()\n```"
)

BLIND: dict[str, Callable[[Sample], str]] = {
    "nothing": lambda sample: "",
    "empty tags": lambda sample: formed("", think=""),
    "form only": lambda sample: formed("."),
    "tag soup": lambda sample: formed("x") * 50 + "<think>" * 20 + "</answer>" * 20,
    "commas": lambda sample: formed(", " * 100, think="," * 300),
    "common words": lambda sample: formed(f"{COMMON} {CHINESE_COMMON}"),
    "one word": lambda sample: formed("the " * 60),
    "echo": lambda sample: formed(sample.problem, think=sample.problem * 10),
    "ramble": lambda sample: formed("I am not sure, it depends.", think=RAMBLE),
    "all options": lambda sample: formed("A, B, C, D, yes, no"),
    "all numbers": lambda sample: formed(" ".join(str(n) for n in range(101))),
    "whole picture": lambda sample: formed(
        json.dumps([{"bbox_2d": [0, 0, *sample.picture], "label": "dog"}])
    ),
    "all boxes": lambda sample: formed(
        json.dumps([{"bbox_2d": box, "label": "dog"} for box in grid(sample.picture)])
    ),
    "no boxes": lambda sample: formed("[]"),
    "exit code 0": lambda sample: formed(EXIT),
    "equals all": lambda sample: formed(ALWAYS_EQUAL),
}


def grid(picture: tuple[int, int]) -> list[list[int]]:
    """Boxes of three sizes that together cover the picture three times."""
    width, height = picture
    sides = [max(1, width * share // 32) for share in (3, 6, 12)]
    return [
        [x, y, x + side, y + side]
        for side in sides
        for x in range(0, width, side)
        for y in range(0, height, side)
    ]


def shuffled(sample: Sample) -> str:
    """The words (or ideographs) of the answer in another order; nothing to shuffle leaves nothing."""
    space = " " if sample.answer.isascii() else ""
    pieces = sample.answer.split() if space else list(sample.answer)
    random.Random(1).shuffle(pieces)
    return space.join(pieces) if len(pieces) > 2 else ""


def listed(sample: Sample) -> str:
    """The gold in the middle of a list of wrong answers."""
    middle = len(sample.decoys) // 2
    return "; ".join([*sample.decoys[:middle], sample.answer, *sample.decoys[middle:]])


INFORMED: dict[str, Callable[[Sample], str]] = {
    "gold in thought": lambda sample: f"<think>{sample.answer}</think><answer>.</answer>",
    "gold in a list": lambda sample: formed(listed(sample)),
    "gold shuffled": lambda sample: formed(shuffled(sample)),
    "gold x 10": lambda sample: formed((sample.answer + " ") * 10),
    "gold, then no": lambda sample: f"{sample.right}<answer>none</answer>",
    "gold + junk": lambda sample: formed(f"{sample.answer} {' '.join(COMMON.split() * 3)}"),
}


def hacks() -> dict[str, Callable[[Sample], str]]:
    return {**BLIND, **INFORMED}
