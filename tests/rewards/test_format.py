"""think_format: what counts as well formed is tested with omnirl_core.text; here the scores."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnirl_core.rewards import think_format

GOOD = "<think>a</think><answer>4</answer>"


@pytest.mark.parametrize(
    ("completion", "strict", "partial"),
    [
        (GOOD, 1.0, 1.0),
        (GOOD + "\n<|im_end|>", 1.0, 1.0),
        ("<think>a</think> so <answer>4</answer>", 0.0, 0.75),
        (GOOD + " done", 0.0, 0.75),
        ("<answer>4</answer><think>a</think>", 0.0, 0.5),
        ("<think>a</think><answer>", 0.0, 0.25),
        ("<think>a</think> 4", 0.0, 0.25),
        ("<answer>4</answer>", 0.0, 0.25),
        ("<think></think><answer>4</answer>", 0.0, 0.25),
        ("<think></think><answer></answer>", 0.0, 0.0),
        (GOOD * 2, 0.0, 0.0),
        (GOOD * 50, 0.0, 0.0),
        ("<think>a</think><answer>4</answer><answer>5</answer>", 0.0, 0.25),
        ("</think>a<think></answer>4<answer>", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("4", 0.0, 0.0),
    ],
)
def test_strict_and_partial_credit(completion, strict, partial):
    assert think_format(completion) == strict
    assert think_format(completion, partial=True) == partial


def test_a_thought_that_the_chat_template_opened():
    assert think_format("a</think><answer>4</answer>", think_opened=True) == 1.0
    assert think_format("a</think><answer>4</answer>") == 0.0
    assert think_format(GOOD, think_opened=True) == 0.0


pieces = st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "a", " "]), max_size=12)


@given(pieces.map("".join))
def test_partial_credit_is_full_only_where_the_strict_score_is(completion):
    strict, partial = think_format(completion), think_format(completion, partial=True)
    assert partial in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert (partial == 1.0) == (strict == 1.0)
