"""Drawn pages: the same pixels everywhere, and a solution that can be read off them again."""

import hashlib
import json
import random

import numpy as np
import pytest

from omnirl_core.rewards import load_rewards
from omnirl_core.shapes import DOCUMENTS, GROUPS, write_dataset
from omnirl_core.shapes.documents import (
    BARS,
    CELL_HEIGHT,
    CELL_WIDTH,
    GLYPHS,
    HEADINGS,
    INKS,
    Page,
    glyph,
    make_document,
)
from omnirl_core.shapes.tasks import Example

PIXELS = "941c4bdee85dc41c1fd0408025da632698cd42398fa1dae64e087450662924d2"
CELLS = {np.asarray(glyph(character)).tobytes(): character for character in GLYPHS}


def examples(task: str, n: int, split: str = "train") -> list[Example]:
    return [make_document(task, random.Random(f"test/{task}/{i}"), split) for i in range(n)]


def read(image) -> list[str]:
    """The lines of a page by its pixels: each cell's ink is looked up among the glyphs."""
    pixels = np.asarray(image)
    ink = np.any([(pixels == color).all(-1) for color in INKS], axis=0).astype(np.uint8) * 255
    height, width = ink.shape
    cells = [[ink[y : y + CELL_HEIGHT, x : x + CELL_WIDTH] for x in range(0, width, CELL_WIDTH)]
             for y in range(0, height, CELL_HEIGHT)]  # fmt: skip
    return ["".join(CELLS[np.ascontiguousarray(cell).tobytes()] for cell in row) for row in cells]


def bars(image) -> list[int]:
    """The value of each bar by the width of its colour."""
    pixels = np.asarray(image)[CELL_HEIGHT // 2 :: CELL_HEIGHT]
    colored = np.any([(pixels == color).all(-1) for color in BARS], axis=0)
    return [int(row.sum()) * 10 // CELL_WIDTH for row in colored if row.any()]


def answer(example: Example) -> object:
    """The solution by the pixels of the page alone."""
    image = example.scenes[0].draw()
    lines = [line.split() for line in read(image)]
    if example.task == "field":
        return " ".join(next(words[1:] for words in lines if words[0] == example.key))
    if example.task == "cell":
        column, item = example.key.split(" of ")
        return int(next(words for words in lines if words[0] == item)[1 + HEADINGS.index(column)])
    if example.task == "rows":
        return len(lines) - 1
    values = dict(zip((words[0] for words in lines), bars(image), strict=False))
    if example.task == "bar":
        return values[example.key]
    if example.task == "longest":
        return max(values, key=lambda item: values[item])
    if example.task == "word":
        return "yes" if any(example.key in words for words in lines) else "no"
    return " ".join(lines[int(example.key) - 1])


@pytest.mark.parametrize("task", [task for task in DOCUMENTS if task != "page"])
def test_the_solution_can_be_read_off_the_pixels(task):
    for example in examples(task, 60):
        assert example.solution == answer(example), example.problem


def test_the_pixels_are_the_same_on_every_machine():
    drawn = hashlib.sha256()
    for task in DOCUMENTS:
        drawn.update(examples(task, 1)[0].scenes[0].draw().tobytes())
    assert drawn.hexdigest() == PIXELS


def test_characters_differ_and_unknown_ones_are_refused():
    assert len(CELLS) == len(GLYPHS)
    with pytest.raises(KeyError, match="é"):
        Page(("é",), 2).draw()


def test_no_example_is_in_both_splits():
    for task in DOCUMENTS:
        train, test = examples(task, 300), examples(task, 60, "test")
        seen = {(one.key, str(one.scenes[0].shown)) for one in train}
        assert not [one for one in test if (one.key, str(one.scenes[0].shown)) in seen], task
    assert GROUPS["documents"] == tuple(DOCUMENTS)


def test_the_recipe_pays_what_the_page_says_and_nothing_else(tmp_path):
    rewards = load_rewards("recipes/documents/rewards.yaml")
    rows = json.loads(write_dataset(tmp_path, "documents", 80, seed=0).read_text())
    for index, row in enumerate(rows):
        (judge,) = [one for one in rewards if one.applies_to(row["task"]) and one.name != "think_format"]
        assert judge.score(f"<answer>{said(row)}</answer>", row["solution"]) == 1.0, row
        others = {said(one) for one in rows[index % 8 :: 8]} - {said(row)}
        paid = [judge.score(f"<answer>{other}</answer>", row["solution"]) for other in others]
        assert np.mean(paid) < 0.25, (row, others)


def said(row: dict) -> str:
    """The right answer in words."""
    if row["task"] != "page":
        return str(row["solution"])
    return "\n".join(test["text"] for test in row["solution"] if test["type"] == "present")
