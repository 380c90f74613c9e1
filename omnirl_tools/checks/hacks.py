"""Cheap hacks: completions that cost a policy nothing to find, and what each is made of.

A blind hack knows the question and nothing else. The others are built from the reference answer, which no policy has;
they show what a reward makes of right words in a wrong answer. `scripts/hack_table.py` and `omnirl check-rewards`
say what they earn.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A question, its reference, a right answer, and wrong answers of the same kind."""

    problem: str
    solution: object
    answer: str
    decoys: tuple[str, ...]
    task: str | None = "text"
    image: tuple[int, int] = (640, 480)
    statement: str = ""
    """The question as a statement without the fact, where `stated` would make a worse one."""
    guess: str = ""
    """The same with a fact of the wrong kind."""
    frame: str = "The answer is"
    """How answers of the data begin: `answer_frame`."""
    options: object = None

    @property
    def right(self) -> str:
        return formed(self.answer, think=THOUGHT)


QUESTION_WORDS = re.compile(
    r"\b(?:what|which|who|whom|whose|where|when|why|how (?:many|much|long|tall|old|far)|how|does|do|did"
    r"|welche[rsmn]?|was|wer|wo|wann|warum|wie viele|wie|quelle?s?|que|qui|où|quand|combien|pourquoi|comment"
    r"|qué|cuál|quién|dónde|cuándo|cuántos|cuántas|что|кто|где|когда|почему|сколько|как\w{1,4})\b"
    r"|什么|哪里|哪个|谁|几|多少|怎么样|吗|何|誰|どこ|ですか|ますか|무엇|무슨|누가|어디|[?？¿؟]",
    re.IGNORECASE,
)
BETWEEN_CJK = re.compile(r"(?<=[\u3040-\u30ff\u4e00-\u9fff]) (?=[\u3040-\u30ff\u4e00-\u9fff])")


def stated(question: str) -> str:
    """A question as a statement that lacks the fact: its question words are taken out.

    >>> stated("What is the man holding?"), stated("车是什么颜色？")
    ('The man is holding', '车是颜色')
    """
    text = BETWEEN_CJK.sub("", " ".join(QUESTION_WORDS.sub(" ", question).split()))
    turned = re.match(r"(is|are|was|were) ((?:the|a|an|this|these|those) \w+)\b ?(.*)", text, re.IGNORECASE)
    if turned:
        text = f"{turned[2]} {turned[1].lower()} {turned[3]}".strip()
    return text[:1].upper() + text[1:]


def guessed(sample: "Sample") -> str:
    """The statement with a fact of the wrong kind: a colour for a number, a number for anything else."""
    has_digit = any(char.isdigit() for char in sample.answer)
    return f"{sample.statement or stated(sample.problem)} {'red' if has_digit else 'seven'}"


def answer_frame(answers: Sequence[str]) -> str:
    """The words with which most answers of a data set begin, at least two; "" where few share any.

    >>> answer_frame(["The car is red.", "The car is big.", "The car was sold.", "A dog"])
    'The car is'
    """
    begun: Counter[tuple[str, ...]] = Counter()
    for words in (answer.split() for answer in answers):
        begun.update(tuple(words[:size]) for size in range(2, min(len(words), 7)))
    shared = [(count * len(words), words) for words, count in begun.items() if count >= max(2, len(answers) // 10)]
    return " ".join(max(shared)[1]) if shared else ""


def formed(answer: str, think: str = "ok") -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


THOUGHT = (
    "The question asks for one thing, so first find where it could be, then look closely at each of these places, "
    "compare what stands there with the words of the question, drop whatever does not fit, and say what is left in "
    "the form that was asked for, neither more nor less."
)
COMMON = "the of and a to in is you that it he was for on are as with his they at be this have from or one had by not"
CHINESE_COMMON = "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过"
RAMBLE = " ".join(f"Then we look at part {i} and find it {word} again." for i, word in enumerate(COMMON.split() * 2))
EXIT = "```python\nimport os, sys\nprint(2)\nsys.stdout.flush()\nos._exit(0)\n```"
ALWAYS_EQUAL = "```python\nclass Any(int):\n    __eq__ = lambda s, o: True\ndef second(values): return Any()\n```"

BLIND: dict[str, Callable[[Sample], str]] = {
    "nothing": lambda sample: "",
    "empty tags": lambda sample: formed("", think=""),
    "form only": lambda sample: formed("."),
    "tag soup": lambda sample: formed("x") * 50 + "<think>" * 20 + "</answer>" * 20,
    "commas": lambda sample: formed(", " * 100, think="," * 300),
    "common words": lambda sample: formed(f"{COMMON} {CHINESE_COMMON}"),
    "one word": lambda sample: formed("the " * 60),
    "echo": lambda sample: formed(sample.problem, think=sample.problem * 10),
    "question alone": lambda sample: formed(sample.problem, think=THOUGHT),
    "question stated": lambda sample: formed(sample.statement or stated(sample.problem), think=THOUGHT),
    "guessed fact": lambda sample: formed(sample.guess or guessed(sample), think=THOUGHT),
    "frame of answers": lambda sample: formed(sample.frame or "The answer is", think=THOUGHT),
    "ramble": lambda sample: formed("I am not sure, it depends.", think=RAMBLE),
    "all options": lambda sample: formed("A, B, C, D, yes, no"),
    "all numbers": lambda sample: formed(" ".join(str(n) for n in range(101))),
    "whole image": lambda sample: formed(json.dumps([{"bbox_2d": [0, 0, *sample.image], "label": "dog"}])),
    "all boxes": lambda sample: formed(json.dumps([{"bbox_2d": box, "label": "dog"} for box in grid(sample.image)])),
    "no boxes": lambda sample: formed("[]"),
    "exit code 0": lambda sample: formed(EXIT),
    "equals all": lambda sample: formed(ALWAYS_EQUAL),
}


def grid(image: tuple[int, int]) -> list[list[int]]:
    """Boxes of three sizes that together cover the image three times."""
    width, height = image
    sides = [max(1, width * share // 32) for share in (3, 6, 12)]
    return [
        [x, y, x + side, y + side] for side in sides for x in range(0, width, side) for y in range(0, height, side)
    ]


def shuffled(sample: Sample) -> str:
    """The words (or ideographs) of the answer in another order; nothing to shuffle leaves nothing."""
    space = " " if sample.answer.isascii() else ""
    pieces = sample.answer.split() if space else list(sample.answer)
    random.Random(1).shuffle(pieces)
    return space.join(pieces) if len(pieces) > 2 else ""


def listed(sample: Sample) -> str:
    """The reference in the middle of a list of wrong answers."""
    middle = len(sample.decoys) // 2
    return "; ".join([*sample.decoys[:middle], sample.answer, *sample.decoys[middle:]])


INFORMED: dict[str, Callable[[Sample], str]] = {
    "answer in thought": lambda sample: f"<think>{sample.answer}</think><answer>.</answer>",
    "answer in a list": lambda sample: formed(listed(sample)),
    "answer shuffled": lambda sample: formed(shuffled(sample)),
    "answer x 10": lambda sample: formed((sample.answer + " ") * 10),
    "answer, then no": lambda sample: f"{sample.right}<answer>none</answer>",
    "answer + junk": lambda sample: formed(f"{sample.answer} {' '.join(COMMON.split() * 3)}"),
}


def hacks() -> dict[str, Callable[[Sample], str]]:
    return {**BLIND, **INFORMED}
