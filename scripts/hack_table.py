"""What cheap hacks earn: under each reward alone, and under each config of recipes/rewards.

    python scripts/hack_table.py            # prints both tables
    python scripts/hack_table.py --write    # renews them in docs/rewards.md

A blind hack knows the question and nothing else. The others are built from the gold answer, which no policy has;
they show what a reward makes of right words in a wrong answer. The rule that tests/rewards/test_hacks.py holds:
no blind hack earns more than a quarter of what a right, well-formed answer earns under the same config.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnirl_core.rewards import Reward, load_rewards
from omnirl_core.rewards.registry import SCORERS, scorer_named

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "rewards.md"
START, END = "<!-- made by scripts/hack_table.py -->", "<!-- end of what scripts/hack_table.py made -->"


# --- samples: a question, its gold, a right answer, and wrong answers of the same kind ---


@dataclass(frozen=True)
class Sample:
    problem: str
    solution: Any
    answer: str
    decoys: tuple[str, ...]
    task: str = "text"

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
BOY = "a small boy in a red shirt kicks the ball over a wooden fence"
LONG = (
    "The ship left the harbour before sunrise and sailed north along the coast. Fog hid the lighthouse, so the "
    "captain steered by compass and rang the bell every minute. At noon the wind turned, the sky cleared, and the "
    "crew saw that a strong current had carried them ten miles past the island where the survey team was waiting."
)
STREETS = ("two women wait for a bus in the rain", "a dog sleeps on a sofa", "a plate of fruit on a table")
CITIES = ("London", "Rome", "Berlin", "Madrid")
CHINESE = "一个穿红衬衫的小男孩把球踢过了木栅栏"
CHINESE_DECOYS = ("两个女人在雨中等车", "一只狗睡在沙发上", "桌上有一盘水果")
TEXT = [
    Sample("What happens in the picture?", BOY, BOY, STREETS),
    Sample("What is the capital of France?", "Paris", "Paris", CITIES),
    Sample("Summarise the voyage.", LONG, LONG, STREETS),
]
CHINESE_TEXT = [
    Sample("图片里发生了什么？", CHINESE, CHINESE, CHINESE_DECOYS),
    Sample("法国的首都是哪里？", "巴黎", "巴黎", ("伦敦", "罗马", "柏林")),
]
CAPTIONS = [Sample("Describe the picture.", [BOY, "a child plays ball by a fence"], BOY, STREETS, "caption")]
CHOICES = [
    Sample("Which one is it, A, B, C or D?", letter, letter, tuple("ABCD".replace(letter, "")), "choice")
    for letter in "BD"
]
YES_NO = [Sample("Is there a dog in the picture?", "no", "no", ("yes",))]
NUMBERS = [
    Sample("How many cars are there?", gold, str(gold), ("1", "2", "17", "100"), "count")
    for gold in (3, 42, 1234.5)
]
FORMULAS = [
    Sample("What is the chance of heads?", r"\frac{1}{2}", "1/2", ("1/4", "2", "1/3")),
    Sample("Expand x(x+1).", "x^2+x", "x + x^2", ("x^2", "2x", "x^2+1")),
]
SIGNS = [
    Sample("What does the sign say?", "Main Street 1200 West", "Main Street 1200 West", ("Exit 14", "Stop"))
]
CORNERS = ("[0, 0, 90, 90]", "[550, 0, 640, 90]", "[0, 390, 90, 480]", "[550, 390, 640, 480]")
ONE_BOX = [
    Sample("Where is the dog?", box, json.dumps(box), CORNERS, "boxes")
    for box in ([120, 80, 260, 220], [400, 30, 600, 270])  # 6 % and 16 % of the picture
]
MANY = [
    {"bbox_2d": [20, 30, 120, 140], "label": "dog"},
    {"bbox_2d": [300, 200, 420, 400], "label": "person"},
    {"bbox_2d": [500, 50, 620, 160], "label": "dog"},
]
BOXES = [Sample("Where are dogs and persons?", MANY, json.dumps(MANY), CORNERS, "boxes")]
PROGRAM = "```python\ndef second(values):\n    return sorted(set(values))[-2]\n```"
TESTS = [
    {"call": "second", "args": [v], "expected": e}
    for v, e in (([1, 2, 3], 2), ([5, 5, 4], 4), ([9, 7, 8], 8))
]
FIRST = "```python\ndef second(values):\n    return max(values)\n```"
PROGRAMS = [Sample("Write second(values): the second largest.", {"tests": TESTS}, PROGRAM, (FIRST, FIRST))]

OF_REWARD = {
    "choice": CHOICES,
    "yes_no": YES_NO,
    "number": NUMBERS,
    "math": FORMULAS,
    "answer": CHOICES + YES_NO + NUMBERS + FORMULAS,
    "edit_similarity": SIGNS,
    "box_iou": ONE_BOX,
    "box_f1": BOXES,
    "box_ap": BOXES,
    "code": PROGRAMS,
}
OF_CONFIG = {
    "unified_text": TEXT,
    "chinese_text": CHINESE_TEXT,
    "caption": CAPTIONS,
    "text_reading": SIGNS,
    "multiple_choice": CHOICES,
    "visual_qa": CHOICES + YES_NO + NUMBERS,
    "counting": NUMBERS,
    "math": FORMULAS,
    "code": PROGRAMS,
    "rec_soft": ONE_BOX,
    "rec_strict": ONE_BOX,
    "detection": BOXES,
    "mixed": TEXT + CAPTIONS + CHOICES + NUMBERS + ONE_BOX,
}
"""Configs that promise to keep hacks down; original_scheme promises to be the original's."""

# --- hacks ---

COMMON = "the of and a to in is you that it he was for on are as with his they at be this have from or one had by not"
CHINESE_COMMON = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过"
)
RAMBLE = " ".join(
    f"Then we look at part {i} and find it {word} again." for i, word in enumerate(COMMON.split() * 2)
)
GRID = [
    [x, y, x + size, y + size]
    for size in (60, 120, 240)
    for x in range(0, 640, size)
    for y in range(0, 480, size)
]
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
    "whole picture": lambda sample: formed('[{"bbox_2d": [0, 0, 640, 480], "label": "dog"}]'),
    "all boxes": lambda sample: formed(json.dumps([{"bbox_2d": box, "label": "dog"} for box in GRID])),
    "no boxes": lambda sample: formed("[]"),
    "exit code 0": lambda sample: formed(EXIT),
    "equals all": lambda sample: formed(ALWAYS_EQUAL),
}


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

# --- tables ---

PICTURE = [(640, 480)]


def reward_table() -> dict[str, dict[str, float]]:
    """Reward -> hack -> best score over its samples, each reward with its defaults."""
    table: dict[str, dict[str, float]] = {}
    for name in SCORERS:
        settings = {"allow_local_execution": True} if name == "code" else {}
        reward = Reward(name, scorer_named(name), settings=settings)
        samples = OF_REWARD.get(name, TEXT)
        table[name] = {
            hack: max(score(reward, s, build(s)) for s in samples) for hack, build in hacks().items()
        }
    return table


def config_table() -> dict[str, dict[str, float]]:
    """Config -> hack -> largest share, over its samples, of what the right answer earns."""
    table = {}
    for name, samples in OF_CONFIG.items():
        rewards = load_rewards(ROOT / "recipes" / "rewards" / f"{name}.yaml")
        table[name] = {
            hack: max(total(rewards, s, build(s)) / total(rewards, s, s.right) for s in samples)
            for hack, build in hacks().items()
        }
    return table


def hacks() -> dict[str, Callable[[Sample], str]]:
    return {**BLIND, **INFORMED}


def score(reward: Reward, sample: Sample, completion: str) -> float:
    if not reward.applies_to(sample.task):
        return 0.0
    completion_ids = list(
        range(max(len(completion) // 4, len(completion.split())))
    )  # about what a tokeniser makes
    columns = {
        "task": sample.task,
        "completion_ids": completion_ids,
        "image_sizes": PICTURE,
        "resized_sizes": PICTURE,
    }
    return reward.score(completion, sample.solution, **columns) or 0.0


def total(rewards: list[Reward], sample: Sample, completion: str) -> float:
    return sum(reward.weight * score(reward, sample, completion) for reward in rewards)


def markdown(table: dict[str, dict[str, float]], first: str, cell: Callable[[float], str]) -> str:
    """Two tables, hacks as rows: blind ones, and those made from the gold."""
    parts = []
    for title, group in (("Blind hacks", BLIND), ("Made from the gold answer", INFORMED)):
        lines = [f"| {title} | " + " | ".join(table) + " |", "|---|" + "---|" * len(table)]
        for hack in group:
            lines.append(f"| {hack} | " + " | ".join(cell(row[hack]) for row in table.values()) + " |")
        parts.append("\n".join(lines))
    return f"{first}\n\n" + "\n\n".join(parts)


def render() -> str:
    by_config = markdown(
        config_table(),
        "Share of what the right answer earns under the configs of recipes/rewards, in %:",
        percent,
    )
    by_reward = markdown(
        reward_table(), "Score of each reward alone, with its defaults and without gates:", plain
    )
    return f"{START}\n\n{by_config}\n\n{by_reward}\n\n{END}"


def percent(share: float) -> str:
    return f"{100 * share:.0f}"


def plain(value: float) -> str:
    return "0" if not value else f"{value:.2f}".removeprefix("0")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="renew the tables in docs/rewards.md")
    arguments = parser.parse_args(argv)
    made = render()
    if arguments.write:
        before, _, rest = DOCS.read_text(encoding="utf-8").partition(START)
        DOCS.write_text(before + made + rest.partition(END)[2], encoding="utf-8")
    else:
        print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
