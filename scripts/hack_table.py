"""What cheap hacks earn: under each reward alone, and under each config of recipes/rewards.

    python scripts/hack_table.py            # prints both tables
    python scripts/hack_table.py --write    # renews them in docs/rewards.md

The hacks are those of omnirl_tools/checks/hacks.py. The rule that tests/rewards/test_hacks.py holds:
no blind hack earns more than a quarter of what a right, well-formed answer earns under the same config.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from omnirl_core.rewards import Reward, load_rewards
from omnirl_core.rewards.registry import SCORERS, scorer_named
from omnirl_tools.checks.hacks import BLIND, INFORMED, Sample, hacks
from scripts.build_embedding import demo_folder

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "rewards.md"
START, END = "<!-- made by scripts/hack_table.py -->", "<!-- end of what scripts/hack_table.py made -->"


# --- samples ---

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
    Sample("How many cars are there?", reference, str(reference), ("1", "2", "17", "100"), "count")
    for reference in (3, 42, 1234.5)
]
FORMULAS = [
    Sample("What is the chance of heads?", r"\frac{1}{2}", "1/2", ("1/4", "2", "1/3")),
    Sample("Expand x(x+1).", "x^2+x", "x + x^2", ("x^2", "2x", "x^2+1")),
]
SIGNS = [Sample("What does the sign say?", "Main Street 1200 West", "Main Street 1200 West", ("Exit 14", "Stop"))]
CORNERS = ("[0, 0, 90, 90]", "[550, 0, 640, 90]", "[0, 390, 90, 480]", "[550, 390, 640, 480]")
ONE_BOX = [
    Sample("Where is the dog?", box, json.dumps(box), CORNERS, "boxes")
    for box in ([120, 80, 260, 220], [400, 30, 600, 270])  # 6 % and 16 % of the image
]
MANY = [
    {"bbox_2d": [20, 30, 120, 140], "label": "dog"},
    {"bbox_2d": [300, 200, 420, 400], "label": "person"},
    {"bbox_2d": [500, 50, 620, 160], "label": "dog"},
]
BOXES = [Sample("Where are dogs and persons?", MANY, json.dumps(MANY), CORNERS, "boxes")]
PROGRAM = "```python\ndef second(values):\n    return sorted(set(values))[-2]\n```"
TESTS = [{"call": "second", "args": [v], "expected": e} for v, e in (([1, 2, 3], 2), ([5, 5, 4], 4), ([9, 7, 8], 8))]
FIRST = "```python\ndef second(values):\n    return max(values)\n```"
PROGRAMS = [Sample("Write second(values): the second largest.", {"tests": TESTS}, PROGRAM, (FIRST, FIRST))]

PEOPLE = ["dog"] * 8 + ["a dog", "puppy"]
ANNOTATED = [Sample("What sleeps on the sofa?", PEOPLE, "dog", ("cat", "boy"), "vqa")]
SHORT = [
    Sample("What is the capital of France?", "Paris", "Paris", CITIES, "qa"),
    Sample("Who painted it?", "Frida Kahlo", "Frida Kahlo", ("Dora Maar", "Lee Krasner"), "qa"),
]
DATES = [Sample("When was it printed?", r"\d{1,2} (May|June) 19\d\d", "3 May 1931", ("5 July 1931",), "pattern")]
MEASURED = [Sample("How many people live there?", n, str(n), ("12", "40", "2000000"), "about") for n in (86400, 4700)]
LABELS = [Sample("Which animals are there?", ["dog", "fox"], "dog, fox", ("cat", "owl"), "labels")]
BY_SIZE = ["London", "Berlin", "Madrid", "Rome"]
RANKED = [Sample("Sort the cities by size.", BY_SIZE, ", ".join(BY_SIZE), ("Oslo", "Bern"), "ranking")]
INVOICE = {"number": "A-7731", "total": 1849.5, "items": [{"name": "pump", "count": 2}, {"name": "hose", "count": 9}]}
FORMS = [
    Sample("Read the invoice as JSON.", INVOICE, json.dumps(INVOICE), ('{"total": 1}', '{"number": "B"}'), "json")
]
REPORT = "Harbour office, annual report. The ferry carried 48,210 people and 9,377 cars; two storms closed the pier."
PAGES = [Sample("Transcribe the page.", REPORT, REPORT, ("Page 3", "The office was closed."), "page")]
CHARTS = [
    Sample("What share has the tallest bar?", "47.3", "47.3", ("12", "30.1"), "chart"),
    Sample("Which line falls?", "Norway", "Norway", ("Chile", "Japan"), "chart"),
]
GRID = "| City | Ships |\n|---|---|\n| Oslo | 41 |\n| Bergen | 87 |"
TABLES = [Sample("Write the table as Markdown.", GRID, GRID, ("| A | B |", "| 1 |\n| 2 |"), "table")]
CHECKED = [
    {"type": "present", "text": "The ferry carried 48,210 people"},
    {"type": "absent", "text": "Page 3"},
    {"type": "order", "before": "annual report", "after": "two storms"},
]
TESTED = [Sample("Transcribe the page.", CHECKED, REPORT, ("Page 3", "The office was closed."), "tests")]
CLICKS = [Sample("Where is the button?", [540, 40, 600, 70], "[570, 55]", ("[20, 20]", "[320, 240]"), "click")]
SPOTS = [Sample("Point at the dog's nose.", [212, 97], "[212, 97]", ("[20, 20]", "[400, 30]"), "point")]
SHIPS = [[30, 40, 90, 80], [400, 300, 460, 350]]
COUNTED = [
    Sample("Point at each ship.", SHIPS, "[[60, 60], [430, 320]]", ("[[9, 9], [320, 240]]",) * 2, "count_points")
]
LEAF = [[420, 60], [520, 90], [500, 210], [410, 180]]
MASKS = [Sample("Outline the leaf.", LEAF, json.dumps(LEAF), ("[[1, 1], [9, 1], [9, 9]]",) * 2, "mask")]
SPANS = [Sample("When does she jump?", [41.5, 47], "41.5 to 47", ("1 to 3", "90 to 120"), "span")]
LISTED = f"# Voyage\n\n{LONG}\n\n- The ship sailed north.\n- The crew was lost."
REPORTS = [Sample("Report on the voyage.", LISTED, LISTED, STREETS, "report")]

OF_REWARD = {
    "choice": CHOICES,
    "yes_no": YES_NO,
    "number": NUMBERS,
    "math": FORMULAS,
    "answer": CHOICES + YES_NO + NUMBERS + FORMULAS,
    "edit_similarity": SIGNS,
    "token_f1": SHORT,
    "vqa_accuracy": ANNOTATED,
    "contains": SHORT + SIGNS,
    "regex": DATES,
    "soft_number": MEASURED,
    "set_f1": LABELS,
    "ranking": RANKED,
    "json_fields": FORMS,
    "anls": SIGNS,
    "cer": SIGNS + PAGES,
    "wer": SIGNS + PAGES,
    "relaxed_accuracy": CHARTS,
    "teds": TABLES,
    "teds_struct": TABLES,
    "unit_tests": TESTED,
    "box_iou": ONE_BOX,
    "box_f1": BOXES,
    "box_ap": BOXES,
    "point_in_box": CLICKS,
    "point_gaussian": CLICKS,
    "point_distance": SPOTS,
    "point_count": COUNTED,
    "mask_iou": MASKS,
    "temporal_iou": SPANS,
    "code": PROGRAMS,
}
OF_CONFIG = {
    "unified_text": TEXT,
    "chinese_text": CHINESE_TEXT,
    "caption": CAPTIONS,
    "text_reading": SIGNS,
    "multiple_choice": CHOICES,
    "visual_qa": CHOICES + YES_NO + NUMBERS,
    "short_answers": SHORT + ANNOTATED + DATES + MEASURED,
    "answer_form": TEXT + FORMS + REPORTS,
    "structured": LABELS + RANKED + FORMS,
    "several_references": CAPTIONS,
    "documents": [*PAGES, *CHARTS, *TABLES, *TESTED],
    "counting": NUMBERS,
    "math": FORMULAS,
    "code": PROGRAMS,
    "rec_soft": ONE_BOX,
    "rec_strict": ONE_BOX,
    "detection": BOXES,
    "pointing": CLICKS + SPOTS + COUNTED + MASKS + SPANS,
    "mixed": TEXT + CAPTIONS + CHOICES + NUMBERS + ONE_BOX,
}
"""Configs that promise to keep hacks down; original_scheme promises to be the original's."""

# --- tables ---

IMAGE = [(640, 480)]


@cache
def reward_table() -> dict[str, dict[str, float]]:
    """Reward -> hack -> best score over its samples, each reward with its defaults."""
    table: dict[str, dict[str, float]] = {}
    for name in [name for name in SCORERS if name != "judge"]:  # a model's grades are its own
        reward = Reward(name, scorer_named(name), settings=needed_settings(name))
        if reward.needs_policy:  # it reads nothing of an answer; see tests/trainer/test_blind_thoughts.py
            continue
        samples = OF_REWARD.get(name, TEXT)
        table[name] = {hack: max(score(reward, s, build(s)) for s in samples) for hack, build in hacks().items()}
    return table


def needed_settings(name: str) -> dict[str, object]:
    """What a reward cannot do without; the embeddings are those of scripts/build_embedding.py."""
    return (
        {"allow_local_execution": True} if name == "code" else {"model": demo_folder()} if name == "embedding" else {}
    )


@cache
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


def score(reward: Reward, sample: Sample, completion: str) -> float:
    if not reward.applies_to(sample.task):
        return 0.0
    completion_ids = list(range(max(len(completion) // 4, len(completion.split()))))  # about what a tokeniser makes
    columns = {
        "problem": sample.problem,
        "options": sample.options,
        "task": sample.task,
        "completion_ids": completion_ids,
        "image_sizes": IMAGE,
        "resized_sizes": IMAGE,
    }
    return reward.score(completion, sample.solution, **columns) or 0.0


def total(rewards: list[Reward], sample: Sample, completion: str) -> float:
    return sum(reward.weight * score(reward, sample, completion) for reward in rewards)


AT_ONCE = 14
"""Columns of one table."""


def tables(table: dict[str, dict[str, float]], first: str, cell: Callable[[float], str]) -> str:
    """The rewards or configs in as many tables as a page can show."""
    names = list(table)
    n_parts = -(-len(names) // AT_ONCE)
    size = -(-len(names) // n_parts)
    groups = [names[k : k + size] for k in range(0, len(names), size)]
    parts = [markdown({name: table[name] for name in group}, "", cell).strip() for group in groups]
    return "\n\n".join([first, *parts])


def markdown(table: dict[str, dict[str, float]], first: str, cell: Callable[[float], str]) -> str:
    """Two tables, hacks as rows: blind ones, and those made from the reference."""
    parts = []
    for title, group in (("Blind hacks", BLIND), ("Made from the reference answer", INFORMED)):
        lines = [f"| {title} | " + " | ".join(table) + " |", "|---|" + "---|" * len(table)]
        for hack in group:
            lines.append(f"| {hack} | " + " | ".join(cell(row[hack]) for row in table.values()) + " |")
        parts.append("\n".join(lines))
    return f"{first}\n\n" + "\n\n".join(parts)


def render() -> str:
    by_config = tables(
        config_table(),
        "Share of what the right answer earns under the configs of recipes/rewards, in %:",
        percent,
    )
    by_reward = tables(reward_table(), "Score of each reward alone, with its defaults and without gates:", plain)
    return f"{START}\n\n{by_config}\n\n{by_reward}\n\n{END}"


def percent(share: float) -> str:
    return f"{100 * share:.0f}"


def plain(value: float) -> str:
    return "0" if not value else f"{value:.2f}".removeprefix("0")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
