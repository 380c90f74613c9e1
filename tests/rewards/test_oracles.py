"""Scorers of form, patterns and masks against independent judges: re, markdown-it, numpy, texts of known language."""

import csv
import random
import re
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from omnirl_core.rewards.registry import scorer_named

contains, regex, mask_iou = scorer_named("contains"), scorer_named("regex"), scorer_named("mask_iou")
language_consistency, markdown_format = scorer_named("language_consistency"), scorer_named("markdown_format")
WORDS = ["ship", "Harbour", "harbours", "sail", "wind", "windy", "quay", "over", "boat-house", "a.b", "C++", "(old)"]


def test_contains_is_a_search_for_whole_words():
    rng = random.Random(0)
    found = []
    for _ in range(1000):
        said = rng.choice([" ", "  ", "\n"]).join(rng.choices(WORDS, k=rng.randint(1, 8)))
        wanted = " ".join(rng.choices(WORDS, k=rng.randint(1, 2)))
        spaced = r"\s+".join(map(re.escape, wanted.split()))
        before, after = (r"(?<!\w)" if wanted[0].isalnum() else "", r"(?!\w)" if wanted[-1].isalnum() else "")
        expected = float(re.search(before + spaced + after, said, re.IGNORECASE) is not None)
        assert contains(said, wanted) == expected, (said, wanted)
        found.append(expected)
    assert 100 < sum(found) < 700


def pattern(rng: random.Random, depth: int = 0) -> str:
    parts = ["a", "b", r"\d", "[ab]", "[^a]", ".", r"\w"]
    if depth < 2:
        parts += [f"(?:{pattern(rng, depth + 1)}|{pattern(rng, depth + 1)})", f"({pattern(rng, depth + 1)})"]
    return "".join(rng.choice(parts) + rng.choice(["", "", "*", "+?", "{1,2}"]) for _ in range(rng.randint(1, 3)))


def test_regex_is_pythons_own():
    rng = random.Random(0)
    found = []
    for _ in range(1500):
        wanted, said = pattern(rng), "".join(rng.choices("abA1 ", k=rng.randint(0, 6)))
        case_sensitive, part = rng.random() < 0.5, rng.random() < 0.5
        compiled = re.compile(wanted, 0 if case_sensitive else re.IGNORECASE)
        expected = float((compiled.search if part else compiled.fullmatch)(said) is not None)
        scored = regex(said, wanted, part=part, case_sensitive=case_sensitive, timeout_s=30)
        assert scored == expected, (said, wanted)
        found.append(expected)
    assert 300 < sum(found) < 1200


BLOCKS = {
    "heading": ["# Ships", "### The harbour"], "list": ["- one\n- two", "1. one\n2. two", "* one"],
    "table": ["| a | b |\n|---|:-:|\n| 1 | 2 |"], "code": ["```\nx = 1\n```", "```python\ny\n```"],
    "bold": ["a **wide** quay", "**all of it**"],
    "none": ["plain words", "#no heading", "-no item", "a | b", "**open", "2.5 metres", "`x`", "* * *"],
}  # fmt: skip
TOKENS = {"heading": "heading_open", "table": "table_open", "code": "fence", "bold": "strong_open"}


def elements(text: str) -> set[str]:
    """The elements that a CommonMark parser sees."""
    blocks = MarkdownIt("commonmark").enable("table").parse(text)
    types = {token.type for block in blocks for token in (block, *(block.children or ()))}
    found = {name for name, kind in TOKENS.items() if kind in types}
    return found | ({"list"} if types & {"bullet_list_open", "ordered_list_open"} else set())


def test_markdown_elements_are_a_parsers():
    rng = random.Random(0)
    scores = []
    for _ in range(600):
        kinds = rng.choices(list(BLOCKS), k=rng.randint(0, 4))
        text = "\n\n".join(rng.choice(BLOCKS[kind]) for kind in kinds)
        wants = rng.sample(["heading", "list", "table", "code", "bold"], k=rng.randint(1, 5))
        expected = len(elements(text) & set(wants)) / len(wants)
        assert markdown_format(text, wants=wants) == pytest.approx(expected), text
        scores.append(expected)
    assert 0 in scores
    assert 1 in scores


def test_language_is_that_of_texts_whose_language_is_known():
    """Questions and answers of the table of pairs, in eight languages: each answer under each question's language."""
    with open(Path(__file__).parent / "tables" / "pairs.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rng = random.Random(0)
    right = total = 0
    for row in rows:
        for other in [row, *rng.sample(rows, 3)]:
            score = language_consistency(other["reference"], problem=row["question"])
            if score is not None:
                total += 1
                right += score == float(other["language"] == row["language"])
    assert total >= 300
    assert right >= 0.9 * total


def encoded(mask: np.ndarray) -> list[int]:
    """COCO's run lengths, counted one sample at a time."""
    runs, value = [0], False
    for sample in mask.T.reshape(-1):
        if sample != value:
            runs.append(0)
            value = sample
        runs[-1] += 1
    return runs


def in_letters(runs: list[int]) -> str:
    """COCO's string: from the third run on the change since two runs before, five bits a character."""
    text = ""
    for k, run in enumerate(runs):
        value, more = run - (runs[k - 2] if k > 2 else 0), True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr((bits | 32 * more) + 48)
    return text


def test_run_lengths_are_masks_compared_sample_by_sample():
    rng = np.random.default_rng(0)
    for number in range(300):
        height, width = rng.integers(4, 40, 2)
        masks = []
        for _ in range(2):
            y, x = rng.integers(0, height), rng.integers(0, width)
            mask = np.zeros((height, width), bool)
            mask[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] = True
            masks.append(mask ^ (rng.random((height, width)) < 0.05 * (number % 2)))
        said, wanted = ({"size": [int(height), int(width)], "counts": encoded(mask)} for mask in masks)
        if number % 3 == 0:
            wanted["counts"] = in_letters(wanted["counts"])
        union = np.count_nonzero(masks[0] | masks[1])
        expected = np.count_nonzero(masks[0] & masks[1]) / union if union else 0.0
        assert mask_iou(str(said).replace("'", '"'), wanted) == pytest.approx(expected, abs=0.02)
