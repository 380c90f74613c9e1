"""length_band and repetition: bounded, continuous, and worth nothing for punctuation."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnirl_core.rewards import Reward, length_band, overlap, repetition
from omnirl_core.rewards.format import seed_length


def words(n):
    return "<think>" + "word " * n + "</think>"


@pytest.mark.parametrize(
    ("n", "score"), [(0, 0.0), (5, 0.5), (10, 1.0), (15, 1.0), (20, 1.0), (30, 0.5), (40, 0.0), (400, 0.0)]
)
def test_a_band_with_soft_edges(n, score):
    assert length_band(words(n), low=10, high=20, unit="words") == score
    assert length_band(words(n), low=10, high=20, completion_ids=list(range(n))) == score


@pytest.mark.parametrize(("n", "score"), [(5, 0.0), (8, 0.5), (9, 0.75), (10, 1.0), (20, 1.0), (22, 0.5), (24, 0.0)])
def test_the_edge_is_a_setting(n, score):
    assert length_band(words(n), low=10, high=20, edge=4, unit="words") == score


@given(st.integers(0, 400), st.integers(1, 100), st.integers(0, 100), st.none() | st.integers(1, 50))
def test_one_word_more_never_jumps(n, low, width, edge):
    """Continuous: neighbours differ by one step of the steeper edge at most."""
    settings = {"low": low, "high": low + width, "edge": edge, "unit": "words"}
    here, there = length_band(words(n), **settings), length_band(words(n + 1), **settings)
    assert 0.0 <= here <= 1.0
    assert abs(here - there) <= 1 / (edge or low) + 1e-9


@pytest.mark.parametrize("flood", ["," * 300, ". " * 300, "!?" * 300, "\n" * 300, "<answer></answer>" * 60, "—" * 300])
def test_punctuation_and_tags_earn_nothing(flood):
    assert length_band(flood, low=10, high=1000, unit="words") == 0.0
    assert length_band(flood, low=10, high=1000, completion_ids=list(range(300))) == 0.0
    assert length_band(words(3) + flood, low=12, high=1000, completion_ids=list(range(300))) == 1.0  # 4 per word
    assert length_band(words(3) + flood, low=24, high=1000, completion_ids=list(range(300))) == 0.5


def test_tokens_beyond_the_band_cost_whatever_they_are():
    assert length_band(words(20), low=10, high=30, completion_ids=list(range(60))) == 0.0


def test_chinese_is_counted_by_ideographs():
    assert length_band("我爱北京天安门广场的红", low=10, high=20, unit="words") == 1.0


@pytest.mark.parametrize(
    "settings", [{"low": 0}, {"low": 30, "high": 20}, {"edge": 0}, {"unit": "chars"}, {"preset": "sead"}]
)
def test_impossible_bands_are_errors(settings):
    with pytest.raises(ValueError, match=r"low|unit|preset"):
        length_band("a", **settings)


def test_a_gate_keeps_length_from_paying_for_a_wrong_answer():
    gate = Reward("overlap", overlap)
    long_and = "<think>" + "word " * 100 + "</think><answer>{}</answer>"
    solution = ["a red car", None]
    completions = [long_and.format("a red car"), long_and.format("blue")]
    hard = Reward("length", length_band, gates=(gate,), gate_at=0.5)
    assert [hard.score(c, "a red car") for c in completions] == [1.0, 0.0]
    assert hard(completions=completions, solution=solution) == [
        1.0,
        None,
    ]  # the gate cannot judge: nor can we
    soft = Reward("length", length_band, gates=(gate,))
    partly = long_and.format("a car")
    assert soft.score(partly, "a red car") == pytest.approx(overlap("a car", "a red car"))


# --- the original's curve, values from its definition ---


def original_length(text, limit=500, gamma=0.9):
    n, marks = len(text), sum(1 for char in text if char in ",.;!")
    base = n * (1 + math.sin(math.pi * n / (2 * limit))) if n <= limit else 2 * limit + math.log(n - limit + 1)
    return base * gamma ** (n // limit) * (0.5 + 0.5 * marks / (n + 1e-6)) / 500


@given(st.text("ab,.;!?，。", max_size=1200))
def test_preset_seed_is_the_originals_curve(text):
    assert length_band(text, preset="seed") == pytest.approx(original_length(text), abs=1e-12)


@pytest.mark.parametrize(
    ("n", "score"), [(0, 0), (100, 0.131), (499, 0.998), (500, 0.9), (1000, 0.815), (5000, 0.352)]
)
def test_preset_seed_at_known_points(n, score):
    assert seed_length("a" * n) == pytest.approx(score, abs=1e-3)


# --- repetition ---


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("", 0.0),
        ("a b c", 0.0),
        ("a b c d", 0.0),
        ("a b c d a b c d", 0.2),  # of five 4-grams one came before
        ("word " * 103, 0.99),
        ("," * 103, 0.99),
        (", " * 103, 0.99),
        ("我爱你们我爱你们", 0.2),
        ("<think>a b</think><answer>c d</answer>", 0.0),
    ],
)
def test_repetition_is_the_share_of_repeated_ngrams(completion, score):
    assert repetition(completion) == pytest.approx(score)


def test_repetition_order_is_a_setting():
    assert repetition("a a b", order=1) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="order"):
        repetition("a", order=0)


@given(st.text(), st.integers(1, 6))
def test_repetition_stays_in_range(text, order):
    assert 0.0 <= repetition(text, order=order) < 1.0
