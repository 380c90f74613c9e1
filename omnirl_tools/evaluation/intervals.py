"""How sure a measured figure is: Wilson interval, paired bootstrap, McNemar's exact test."""

import math
from statistics import NormalDist

import numpy as np

CHUNK = 2_000_000  # resampled numbers held at once, 16 MB


def wilson_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a proportion, in [0, 1]; (0, 1) where nothing was counted.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    >>> low, high = wilson_interval(1720, 2000)
    >>> f"{low:.4f} {high:.4f}"
    '0.8441 0.8745'
    """
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = hits / n
    middle = share + z * z / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def bootstrap_interval(
    differences: np.ndarray, *, level: float = 0.95, n_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of the mean of paired differences, by resampling the rows.

    B. Efron, "Bootstrap methods: another look at the jackknife", 1979. The same seed gives the same interval.

    >>> bootstrap_interval(np.full(50, 0.25))
    (0.25, 0.25)
    """
    differences = np.asarray(differences, dtype=np.float64)  # (n,)
    n = len(differences)
    if n == 0:
        raise ValueError("bootstrap_interval: no rows to resample; compare files that share rows")
    generator = np.random.default_rng(seed)
    means = np.empty(n_resamples)
    at_once = max(1, CHUNK // n)
    for start in range(0, n_resamples, at_once):
        count = min(at_once, n_resamples - start)
        picks = generator.integers(0, n, size=(count, n))
        means[start : start + count] = differences[picks].mean(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def mcnemar(wins: int, losses: int) -> float:
    """Return the two-sided p-value that as many rows turned right as turned wrong; exact, in [0, 1].

    `wins` rows were wrong before and right after, `losses` the reverse; rows that did not change say nothing.
    Q. McNemar, 1947, in its exact binomial form.

    >>> mcnemar(8, 1), mcnemar(0, 0)
    (0.0390625, 1.0)
    """
    n = wins + losses
    tail = term = 1  # whole numbers: nothing is rounded before the end
    for k in range(min(wins, losses)):
        term = term * (n - k) // (k + 1)  # n over k + 1
        tail += term
    return min(1.0, 2 * tail / 2**n)
