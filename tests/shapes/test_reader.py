"""The shipped reader of drawn pages, and what its vision tower is taught to tell from a page."""

import random
import sys

import pytest
from transformers import AutoProcessor

from omnirl_core.models import load_policy
from omnirl_core.shapes import DOCUMENTS, READER, tiny_reader
from omnirl_core.shapes.documents import chart, make_document
from scripts import build_tiny_reader
from scripts.build_tiny_reader import CHARACTERS, READ_OUTS, WORDS, bar_of, read_right, token_labels


def pages(task: str, n: int = 20):
    return [make_document(task, random.Random(f"reader/{task}/{i}"), "test").scenes[0] for i in range(n)]


@pytest.mark.parametrize("task", DOCUMENTS)
def test_the_labels_of_a_page_spell_it_out(task):
    for page in pages(task):
        labels = token_labels(page)
        assert len(labels) == len(page.lines) * page.columns // 2
        assert all(0 <= label < n for row in labels for label, n in zip(row, READ_OUTS.values(), strict=True))
        spelled = ["".join(CHARACTERS[a] + CHARACTERS[b] for a, b, *_ in labels[i : i + 6]).rstrip()
                   for i in range(0, len(labels), 6)]  # fmt: skip
        assert spelled == [line.rstrip() for line in page.lines]
        assert [WORDS[labels[6 * i][3]] for i in range(len(page.lines))] == [line.split()[0] for line in page.lines]


def test_bars_are_told_by_their_tens():
    for seed in range(20):
        page, values = chart(random.Random(seed))
        assert [10 * bar_of(page, row) for row in range(len(page.lines))] == [*values.values(), 0]


def test_words_and_numbers_are_one_token_each():
    tokenizer = AutoProcessor.from_pretrained(tiny_reader()).tokenizer
    assert {word: len(tokenizer(word)["input_ids"]) for word in WORDS[1:]} == dict.fromkeys(WORDS[1:], 1)
    text = "<think>CITY PARIS</think><answer>12 MAR\nB7</answer>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_shipped_reader_reads_pages_that_it_has_not_met():
    """Whatever the style of its answers: GRPO is to lift the style, what stands on the page it knows."""
    processor = AutoProcessor.from_pretrained(tiny_reader())
    shares = read_right(load_policy(tiny_reader()), processor, 12)
    assert sum(shares.values()) / len(shares) >= 0.5, shares
    assert min(shares.values()) > 0, shares


def test_the_script_builds_a_reader(tmp_path):
    build_tiny_reader.main(["--out", str(tmp_path / "new"), "--vision-steps", "1", "--answer-steps", "1"])
    assert sys.float_info.min / 2 > 0, "the process keeps its small numbers: tests that come after count on them"
    assert {path.name for path in (tmp_path / "new").iterdir()} == {path.name for path in READER.iterdir()}
