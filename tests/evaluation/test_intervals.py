"""Intervals and tests against scipy's."""

import numpy as np
import pytest
from scipy import stats

from omnirl_tools.evaluation.intervals import bootstrap_interval, mcnemar, wilson_interval


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (7, 20), (1720, 2000), (360, 500)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_wilson_is_scipys(hits, n, level):
    expected = stats.binomtest(hits, n).proportion_ci(level, method="wilson")
    assert wilson_interval(hits, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_is_everything():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 5), (8, 1), (1, 8), (40, 22), (900, 1000)])
def test_mcnemar_is_the_exact_binomial_test(wins, losses):
    expected = stats.binomtest(wins, wins + losses, 0.5).pvalue if wins + losses else 1.0
    assert mcnemar(wins, losses) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_large_counts_stays_exact():
    assert 0 < mcnemar(4000, 6000) < 1e-80


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_bootstrap_agrees_with_scipys_percentile_interval(level):
    differences = np.random.default_rng(3).choice([-1.0, 0.0, 0.25, 1.0], size=150, p=[0.1, 0.5, 0.2, 0.2])
    expected = stats.bootstrap(
        (differences,), np.mean, method="percentile", n_resamples=20_000, confidence_level=level, rng=1
    ).confidence_interval
    found = bootstrap_interval(differences, level=level, n_resamples=20_000, seed=0)
    assert found == pytest.approx((expected.low, expected.high), abs=0.012)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    """400 samples of 60 differences with mean 0.2: the 95 % interval holds 0.2 in about 95 % of them."""
    generator = np.random.default_rng(0)
    intervals = [bootstrap_interval(generator.normal(0.2, 0.5, 60), n_resamples=500, seed=k) for k in range(400)]
    assert 0.90 < np.mean([low <= 0.2 <= high for low, high in intervals]) < 0.98


def test_bootstrap_repeats_by_its_seed_and_in_chunks():
    values = np.random.default_rng(0).normal(size=3000)  # 10,000 x 3,000 does not fit in one chunk
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values, seed=4) != bootstrap_interval(values, seed=5)


def test_bootstrap_of_one_row_and_of_none():
    assert bootstrap_interval(np.array([0.5])) == (0.5, 0.5)
    with pytest.raises(ValueError, match="no rows to resample"):
        bootstrap_interval(np.array([]))
