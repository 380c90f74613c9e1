"""Language, length, JSON and Markdown: TRL's own penalty and Python's own parser as oracles."""

import json
import random

import pytest
from trl.rewards import get_soft_overlong_punishment

from omnirl_core.rewards import Reward
from omnirl_core.rewards.registry import scorer_named

language_consistency, overlong = scorer_named("language_consistency"), scorer_named("overlong")
json_format, markdown_format = scorer_named("json_format"), scorer_named("markdown_format")


def test_overlong_is_trls_without_its_sign():
    rng = random.Random(0)
    for _ in range(400):
        most = rng.randint(1, 300)
        buffer = rng.randint(0, most)
        ids = [1] * rng.randint(0, 400)
        [wanted] = get_soft_overlong_punishment(most, buffer)(completion_ids=[ids])
        assert overlong("x", most_tokens=most, buffer=buffer, completion_ids=ids) == pytest.approx(-wanted)


def test_overlong_counts_the_batch_s_tokens():
    reward = Reward("overlong", overlong, weight=-1.0, settings={"most_tokens": 10, "buffer": 4})
    assert reward(completions=["a", "b"], completion_ids=[[1] * 8, [1] * 99]) == [0.5, 1.0]
    assert overlong("word " * 9, most_tokens=10, buffer=4) == 0.75


def test_json_format_is_pythons_parser():
    rng = random.Random(0)
    pieces = ["{", "}", "[", "]", '"a"', ":", ",", "1", "null", "tru", " "]
    for _ in range(2000):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 5)))
        try:
            json.loads(text)
            valid = 1.0
        except ValueError:
            valid = 0.0
        assert json_format(text) == json_format(f"```json\n{text}\n```") == valid


ENGLISH, GERMAN = "What is the man holding?", "Was hält der Mann in der Hand?"
TABLE = [
    (language_consistency, "The man is in the rain.", {"problem": ENGLISH}, 1.0),
    (language_consistency, "Der Mann ist im Regen und das ist nicht gut.", {"problem": ENGLISH}, 0.0),
    (language_consistency, "Der Mann ist im Regen.", {"problem": GERMAN}, 1.0),
    (language_consistency, "一个人在雨中。", {"problem": ENGLISH}, 0.0),
    (language_consistency, "Der Mann ist in dem Haus. The man is in the house.", {"problem": ENGLISH}, 0.5),
    (language_consistency, "<think>42</think><answer>Paris</answer>", {"problem": ENGLISH}, 1.0),
    (language_consistency, "", {"problem": ENGLISH}, 0.0),
    (language_consistency, "The man", {"problem": "x = 3"}, None),
    (language_consistency, "The man", {}, None),
    (language_consistency, "The man is here", {"target": "de", "problem": ENGLISH}, 0.0),
    (json_format, "", {}, 0.0),
    (json_format, '{"a": 1} and more', {}, 0.0),
    (json_format, "[" * 50_000, {}, 0.0),
    (json_format, "[1]", {"keys": ["a"]}, 0.0),
    (json_format, '{"a": 1, "b": 2}', {"keys": ["a"]}, 1.0),
    (markdown_format, "", {}, 0.0),
    (markdown_format, "| a | b |\n|---|:-:|\n| 1 | 2 |", {"wants": ["table"]}, 1.0),
    (markdown_format, "```python\n1\n```\nand **so**", {"wants": ["code", "bold"]}, 1.0),
    (markdown_format, "#no heading\n-no item", {}, 0.0),
    (markdown_format, "1. one\n2. two", {}, 0.5),
]


@pytest.mark.parametrize(("scorer", "text", "settings", "expected"), TABLE)
def test_adversarial(scorer, text, settings, expected):
    assert scorer(text, **settings) == (expected if expected is None else pytest.approx(expected, abs=0.01))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{name: overlong, settings: {most_tokens: 10, buffer: 20}}", ":2: overlong: buffer: 20 must be from 0 to"),
        ("{name: overlong, settings: {most_tokens: 0}}", ":2: overlong: most_tokens: 0 must be 1 or more"),
        (
            "{name: markdown_format, settings: {wants: [headings]}}",
            "'headings' is not a choice; did you mean 'heading'?",
        ),
        ("{name: language_consistency, settings: {target: english}}", "target: 'english' is not a choice"),
        ("{name: json_format, settings: {keys: total}}", "keys: 'total' is not list or null"),
    ],
)
def test_settings_are_checked(refusal, entry, message):
    assert message in refusal(entry)
