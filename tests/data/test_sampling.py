"""Sampling strategies, against their plain definitions."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnirl_core.data.sources import Sampling

ROWS = st.integers(0, 3000)
NUMBERS = st.integers(0, 4000)
PERCENTAGES = st.decimals(0, 100, places=2).map(str)


@given(NUMBERS, ROWS)
def test_first_and_end_are_slices(n, n_rows):
    rows = list(range(n_rows))
    assert list(Sampling.parse(f"first:{n}").indices(n_rows, "0")) == rows[:n]
    assert list(Sampling.parse(f"end:{n}").indices(n_rows, "0")) == rows[max(0, n_rows - n) :]


@given(PERCENTAGES, ROWS)
def test_percentages_are_exact_and_rounded_up(percentage, n_rows):
    size = math.ceil(Fraction(percentage) * n_rows / 100)
    for how in ("first:", "end:", "random:", ""):
        sampling = Sampling.parse(f"{how}{percentage}%")
        assert len(sampling.indices(n_rows, "0")) == sampling.size(n_rows) == size
        assert sampling.needs_count


@given(NUMBERS, ROWS, st.integers(0, 5))
def test_random_is_seeded_distinct_and_within_the_rows(n, n_rows, seed):
    sampling = Sampling.parse(f"random:{n}")
    drawn = sampling.indices(n_rows, str(seed))
    assert sampling.indices(n_rows, str(seed)) == drawn
    assert len(set(drawn)) == len(drawn) == min(n, n_rows)
    assert all(0 <= index < n_rows for index in drawn)


def test_another_seed_draws_other_rows():
    draws = {frozenset(Sampling.parse("10%").indices(1000, str(seed))) for seed in range(20)}
    assert len(draws) == 20


def test_every_row_is_drawn_about_as_often():
    sampling = Sampling.parse("random:3")
    counts = [0] * 10
    for seed in range(3000):
        for index in sampling.indices(10, str(seed)):
            counts[index] += 1
    chi_squared = sum((count - 900) ** 2 / 900 for count in counts)
    assert chi_squared < 27.9  # 9 degrees of freedom, p = .001; an upper bound, since draws are without replacement


def test_all_takes_everything_without_counting():
    assert Sampling.parse("all").indices(7, "0") == range(7)
    assert not Sampling.parse("all").needs_count
    assert not Sampling.parse("first:5").needs_count
    assert Sampling.parse("end:5").needs_count


@given(st.text(alphabet="firstendrandom:0123456789.%- ", max_size=12))
def test_anything_else_is_refused_with_the_list(text):
    try:
        sampling, refusal = Sampling.parse(text), ""
    except ValueError as error:
        sampling, refusal = None, str(error)
    if sampling is None:
        assert "first:N, end:N, random:N or N%" in refusal
        assert repr(text) in refusal
    else:
        how, _, amount = text.rpartition(":")
        assert how in ("first", "end", "random", "")
        assert sampling.percent == amount.endswith("%")
        assert sampling.amount == Fraction(amount.rstrip("%"))


@pytest.mark.parametrize(
    "text", ["", "first", "first:", "10", "first:-1", "first:1.5", "101%", "%", "last:3", "all:3"]
)
def test_these_are_refused(text):
    with pytest.raises(ValueError, match="sampling_strategy"):
        Sampling.parse(text)
