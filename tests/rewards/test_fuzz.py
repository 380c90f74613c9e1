"""Every registered scorer on anything: no exception, a score in range or None, and no work beyond the text's size."""

import os
import random
import sys
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnirl_core.rewards import Reward
from omnirl_core.rewards.reference_probability import ReferenceTokens
from omnirl_core.rewards.registry import SCORERS, scorer_named
from scripts.build_embedding import demo_folder

SETTINGS = {
    "judge": {"url": "http://127.0.0.1:9/v1", "retries": 0},
    "code": {"allow_local_execution": True, "timeout_s": 0.5, "total_timeout_s": 2.0},
}
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "250"))
"""Per scorer; FUZZ_EXAMPLES=6000 makes 100,000 completions in all."""
SLOW = {"code": 1 / 30, "math": 1 / 4}
"""Shares of them for scorers that ask another process."""

# --- completions and solutions ---

tags = st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "<THINK>", "<|im_end|>", "<", "```python\n"])
marks = st.sampled_from(
    ["[", "]", "{", "}", "(", ")", '"bbox_2d":', ",", ":", "%", "$", "\\frac{1}{2}", "\\boxed{", "^"]
)
words = st.sampled_from(
    ["yes", "no", "A", "(B)", "不", "没有", "none", "and", "or", "3 cm", "1/2", "x^2", "=", "print(1)"]
)
numbers = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        [
            "1e999",
            "-0",
            "9" * 400,
            "1,234,567",
            "1" + "0" * 30,
            "0x10",
            "½",
            "٣",
            "１２",
            "²",
            "1e-400",
            "NaN",
        ]
    ),
)
boxes = st.lists(st.integers(-2000, 2000), min_size=0, max_size=6).map(str)
pieces = st.one_of(tags, marks, words, numbers, boxes, st.text(max_size=8))
bodies = st.lists(pieces, max_size=12).map(" ".join)
formed = bodies.map(lambda body: f"<think>so</think><answer>{body}</answer>")
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["assistant", "tool", "user"])},
        optional={
            "content": st.one_of(st.none(), bodies, st.just([{"type": "text", "text": "x"}, {"type": "image"}]))
        },
    ),
    max_size=3,
)
completions = st.one_of(st.none(), st.text(), bodies, formed, formed, messages)

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), bodies, numbers, boxes)
solutions = st.recursive(
    st.one_of(
        scalars,
        st.lists(st.integers(-100, 700), min_size=4, max_size=4),
        st.sampled_from(["A", "yes", "x=1"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["answer", "bbox_2d", "label", "tests", "text", "stdin", "call"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


def reward_named(name):
    settings = {"model": demo_folder()} if name == "embedding" else SETTINGS.get(name, {})
    return Reward(name, scorer_named(name), settings=settings)


@pytest.mark.parametrize("name", SCORERS)
def test_any_completion_with_any_solution_is_scored_or_unjudgeable(name):
    reward = reward_named(name)

    @settings(
        max_examples=round(SLOW.get(name, 1) * EXAMPLES),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(completions, solutions)
    def check(completion, solution):
        columns = {
            "completion_ids": [[1, 2, 3]],
            "image_sizes": [[(640, 480)]],
            "resized_sizes": [[(644, 476)]],
            "reference_probabilities": [(ReferenceTokens((0.9, 1.0), (0.1, 0.3)),)],
        }
        (score,) = reward(prompts=["?"], completions=[completion], solution=[solution], task=[None], **columns)
        assert score is None or (isinstance(score, float) and 0.0 <= score <= 1.0)

    check()


@pytest.mark.parametrize("name", sorted(set(SCORERS) - {"code"}))
def test_settings_do_not_leak_from_one_call_to_the_next(name):
    """The same sample scores the same, alone or after others: no scorer keeps state that shows."""
    reward = reward_named(name)
    samples = [
        ("<answer>[1, 2, 30, 40]</answer>", [1, 2, 30, 40]),
        ("<answer>B</answer>", "B"),
        ("<answer>4</answer>", 4),
    ]
    alone = [reward.score(*sample) for sample in samples]
    assert [reward.score(*sample) for sample in reversed(samples)] == alone[::-1]


# --- long and hostile texts ---

WORDS = 20_000
TAGS = 50_000  # characters


def long_texts():
    rng = random.Random(0)
    vocabulary = ["".join(rng.choice("aeioubstrnl") for _ in range(rng.randint(2, 9))) for _ in range(3000)]
    drawn = " ".join(rng.choice(vocabulary) for _ in range(WORDS))
    yield "words", f"<think>t</think><answer>{drawn}</answer>"
    yield "one word", "<think>t</think><answer>" + "word " * WORDS + "</answer>"
    yield (
        "ideographs",
        "<answer>" + "".join(chr(0x4E00 + rng.randrange(3000)) for _ in range(WORDS)) + "</answer>",
    )
    for name, unit in {
        "closing tags": "</think>",
        "opening tags": "<think>",
        "answers": "<answer>x</answer>",
        "blocks": "<think>x</think><answer>x</answer>",
        "angles": "<",
        "boxes": "[1,2,3,4]",
        "brackets": "[",
        "braces": '{"a":',
        "spaces": " ",
        "digits": "9",
        "commas": ",",
        "fractions": "\\frac{",
    }.items():
        yield name, "<think>x</think><answer>" + unit * (TAGS // len(unit)) + "</answer>"
    yield "spaces inside", "<answer>a" + " " * TAGS + "b</answer>"
    yield "an open rule", "<answer>|a|\n|" + "-" * TAGS + "x</answer>"
    yield "the original's cubic case", "<think>" + "</think>" * 3000 + "<answer>" * 3000


LONG = dict(long_texts())
REFERENCES = ["a red car by the sea", "B", 42, [10, 20, 300, 400], r"\frac{1}{2}"]
WATCHDOG_S = 60
"""For all long texts together, on a machine that is busy; alone each takes well under 0.1 s (benchmarks/RESULTS.md)."""


@pytest.mark.timeout(WATCHDOG_S)
@pytest.mark.parametrize("name", sorted(set(SCORERS) - {"code"}))
def test_long_and_hostile_texts_come_back(name):
    reward = reward_named(name)
    for text in LONG.values():
        for reference in REFERENCES:
            score = reward.score(text, reference)
            assert score is None or 0.0 <= score <= 1.0


def lines_run(call):
    """How many lines of omnirl_core a call executes: a count of work that no busy machine disturbs."""
    count = 0

    def local(frame, event, arg):
        nonlocal count
        count += event == "line"
        return local

    def trace(frame, event, arg):
        return local if "omnirl_core" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


OWN = ("think_format", "length_band", "repetition", "bleu", "rouge", "meteor", "overlap")


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(
    "unit", ["</think>", "<answer>x</answer>", "<think>x</think><answer>x</answer>", "word ", "w{} "]
)
def test_work_grows_no_faster_than_the_text(name, unit):
    reward = reward_named(name)

    def text(n):
        return "<think>x</think><answer>" + "".join(unit.replace("{}", str(i)) for i in range(n)) + "</answer>"

    reward.score(text(10), "word by word")  # whatever is loaded once
    small, large = (lines_run(lambda n=n: reward.score(text(n), "word by word")) for n in (500, 4000))
    assert large <= 10 * small


def test_threads_do_not_disturb_each_other():
    rewards = [reward_named(name) for name in OWN]
    wanted = [[reward.score(text, "a red car by the sea") for text in LONG.values()] for reward in rewards]
    seen = {}

    def work(place):
        seen[place] = [[reward.score(text, "a red car by the sea") for text in LONG.values()] for reward in rewards]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(seen[place] == wanted for place in range(3))
