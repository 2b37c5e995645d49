"""Means with intervals: no number of an evaluation stands without one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from align.errors import NumericsError

Numbers = Sequence[float] | NDArray[np.floating]
RESAMPLES = 10_000
DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, and the number of units (prompts, not tokens) it is a mean of."""

    mean: float
    low: float
    high: float
    n: int


def bootstrap_mean(x: Numbers, confidence: float = 0.95, n: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean with a percentile bootstrap interval (Efron 1979).

    Where all numbers are equal the interval has no width, which says nothing about rare events: for a share
    of yes and no, such as a refusal rate near 0, use `wilson`.

    Args:
        x: One number per unit; units are independent.
        confidence: Coverage of the interval.
        n: Number of resamples.
        seed: Of the resampling.

    Returns:
        The interval; its width is 0 for one number.

    Raises:
        NumericsError: No numbers, or one that is not finite.

    Example:
        >>> bootstrap_mean([1.0, 1.0, 1.0])
        Interval(mean=1.0, low=1.0, high=1.0, n=3)
    """
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise NumericsError(
            "interval", f"{values.size} numbers, none or not all finite", "look at the scores"
        )
    rng = np.random.default_rng(seed)
    rows = max(1, DRAWS_AT_ONCE // len(values))
    means = [
        values[rng.integers(len(values), size=(min(rows, n - start), len(values)))].mean(axis=1)
        for start in range(0, n, rows)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def paired_difference(
    a: Numbers, b: Numbers, confidence: float = 0.95, n: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean of a - b over the same units in the same order, with a bootstrap interval over units.

    Args:
        a: One number per unit.
        b: The other number of each unit.
        confidence: Coverage of the interval.
        n: Number of resamples.
        seed: Of the resampling.

    Returns:
        The interval; above 0 where `a` is higher.

    Raises:
        NumericsError: Not the same number of units, none, or a number that is not finite.

    Example:
        >>> paired_difference([3.0, 5.0], [1.0, 3.0]).mean
        2.0
    """
    return bootstrap_mean(np.subtract(*_paired(a, b)), confidence, n, seed)


def win_rate(a: Numbers, b: Numbers, confidence: float = 0.95, n: int = RESAMPLES, seed: int = 0) -> Interval:
    """Share of units on which `a` is higher than `b`; a tie counts 1/2.

    The interval is the bootstrap's over units; where every unit goes the same way resampling has nothing to
    vary, and Wilson's interval stands in.

    Args:
        a: One number per unit.
        b: The other number of each unit.
        confidence: Coverage of the interval.
        n: Number of resamples.
        seed: Of the resampling.

    Returns:
        The interval, within 0 and 1.

    Raises:
        NumericsError: Not the same number of units, none, or a number that is not finite.

    Example:
        >>> win_rate([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 9.0, 0.0]).mean
        0.625
    """
    first, second = _paired(a, b)
    # Infinities of one sign would compare as ties, and NaN as a loss; the difference lets neither through.
    outcomes = (np.sign(first - second) + 1) / 2
    result = bootstrap_mean(outcomes, confidence, n, seed)
    if outcomes.min() < outcomes.max():
        return result
    return wilson(float(outcomes.sum()), len(outcomes), confidence)


def wilson(k: float, n: int, confidence: float = 0.95) -> Interval:
    """Share k / n with Wilson's score interval (Wilson 1927), which stays honest at 0 and at 1.

    Args:
        k: Number of hits, 0 to n; a half counts a tie.
        n: Number of units, at least 1.
        confidence: Coverage of the interval.

    Returns:
        The interval, within 0 and 1.

    Raises:
        NumericsError: k is not between 0 and n, or n is 0.

    Example:
        >>> interval = wilson(0, 40)
        >>> interval.mean, interval.low, round(interval.high, 4)
        (0.0, 0.0, 0.0876)
    """
    if n < 1 or not 0 <= k <= n:
        raise NumericsError("interval", f"{k} hits of {n} is no share", "count the units again")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = k / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)), n)


def spearman(a: Numbers, b: Numbers) -> float | None:
    """Rank correlation (Spearman 1904): Pearson's of the ranks, equal numbers sharing their mean rank.

    Returns:
        -1 to 1; None where either side is constant, so that it has no order.

    Example:
        >>> spearman([1.0, 2.0, 3.0], [1.0, 9.0, 5.0])
        0.5
    """
    first, second = (_ranks(x) for x in _paired(a, b))
    spread = float(first.std() * second.std())
    if spread == 0 or not len(first):
        return None
    return round(float(((first - first.mean()) * (second - second.mean())).mean()) / spread, 12)


def _ranks(x: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, count = np.unique(x, return_inverse=True, return_counts=True)
    return np.asarray((count.cumsum() - (count - 1) / 2)[place], dtype=np.float64)


def _paired(a: Numbers, b: Numbers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise NumericsError("interval", f"{first.size} numbers against {second.size}", "pair them by unit")
    return first, second
