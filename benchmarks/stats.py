"""The median of paired ratios, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Ratio:
    """A median of n paired ratios with a 95 % interval."""

    median: float
    low: float
    high: float
    n: int


def paired_ratio(theirs: Sequence[float], ours: Sequence[float], seed: int = 0) -> Ratio:
    """How many times longer (or larger) theirs is than ours.

    The interval is the percentile bootstrap of the median over pairs (Efron 1979): pairs are drawn with
    replacement, so that a pair's two numbers stay together.

    Args:
        theirs: One number of each pair.
        ours: The other number, in the same order.
        seed: Of the draws.

    Raises:
        ValueError: No pairs, lists of unequal length, or a number that is not above 0.

    Example:
        >>> paired_ratio([2.0, 6.0, 4.0], [1.0, 2.0, 1.0]).median
        3.0
    """
    if len(theirs) != len(ours) or not theirs:
        raise ValueError(f"{len(theirs)} numbers against {len(ours)} are no pairs")
    above, below = np.asarray(theirs, dtype=np.float64), np.asarray(ours, dtype=np.float64)
    if not (
        np.isfinite(above).all() and np.isfinite(below).all() and (above > 0).all() and (below > 0).all()
    ):
        raise ValueError("a ratio needs finite numbers above 0")
    ratios = above / below
    draws = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))
