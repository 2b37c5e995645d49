"""Intervals against scipy and numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from align.errors import NumericsError
from align.evals.stats import bootstrap_mean, paired_difference, spearman, wilson, win_rate


def test_bootstrap_is_scipys_percentile_bootstrap() -> None:
    x = np.random.default_rng(0).exponential(size=80)
    for confidence in (0.95, 0.8):
        found = bootstrap_mean(x, confidence)
        expected = scipy_stats.bootstrap(
            (x,), np.mean, confidence_level=confidence, method="percentile", n_resamples=10_000, rng=1
        ).confidence_interval
        assert found.mean == pytest.approx(x.mean())
        # Two different streams of 10,000 resamples agree to a few hundredths of the width.
        assert found.low == pytest.approx(expected.low, abs=0.03 * (expected.high - expected.low))
        assert found.high == pytest.approx(expected.high, abs=0.03 * (expected.high - expected.low))
        assert found.n == 80


def test_bootstrap_width_is_that_of_the_standard_error() -> None:
    x = np.random.default_rng(1).normal(size=400)
    found = bootstrap_mean(x)
    assert found.high - found.low == pytest.approx(2 * 1.96 * x.std() / 20, rel=0.05)


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    x = np.random.default_rng(2).normal(size=20)
    assert bootstrap_mean(x, seed=3) == bootstrap_mean(x, seed=3)
    assert bootstrap_mean(x, seed=3).low != bootstrap_mean(x, seed=4).low


def test_resampling_in_pieces_draws_every_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(5).normal(size=30)
    whole = bootstrap_mean(x, n=2000)
    monkeypatch.setattr("align.evals.stats.DRAWS_AT_ONCE", 30 * 700)
    pieces = bootstrap_mean(x, n=2000)
    assert pieces.low == pytest.approx(whole.low, abs=0.05)
    assert pieces.high == pytest.approx(whole.high, abs=0.05)


def test_one_number_has_no_width() -> None:
    found = bootstrap_mean([2.5])
    assert (found.mean, found.low, found.high, found.n) == (2.5, 2.5, 2.5, 1)


def test_paired_difference_is_the_bootstrap_of_differences() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(scale=10, size=50)
    better = base + 1 + rng.normal(scale=0.1, size=50)
    found = paired_difference(better, base)
    assert found == bootstrap_mean(better - base)
    # Pairing takes the prompts' own spread of 10 out: the interval is far narrower, and above 0.
    assert 0.9 < found.low < found.mean < found.high < 1.1


def test_win_rate_counts_ties_half() -> None:
    found = win_rate([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 9.0, 0.0])
    assert found.mean == (1 + 0.5 + 0 + 1) / 4
    assert found.n == 4
    outcomes = [1.0, 0.5, 0.0, 1.0]
    assert (found.low, found.high) == (bootstrap_mean(outcomes).low, bootstrap_mean(outcomes).high)


@pytest.mark.parametrize(("a", "mean"), [(1.0, 1.0), (-1.0, 0.0), (0.0, 0.5)])
def test_a_win_rate_without_spread_still_has_an_interval(a: float, mean: float) -> None:
    found = win_rate([a] * 10, [0.0] * 10)
    assert found.mean == mean
    assert found == wilson(10 * mean, 10)
    assert found.high - found.low > 0.2


@pytest.mark.parametrize(("k", "n"), [(0, 40), (3, 10), (10, 10), (57, 64)])
@pytest.mark.parametrize("confidence", [0.95, 0.9])
def test_wilson_against_scipy(k: int, n: int, confidence: float) -> None:
    found = wilson(k, n, confidence)
    expected = scipy_stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert found.mean == k / n
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)
    assert found.n == n


def test_rank_correlation_against_scipy() -> None:
    rng = np.random.default_rng(0)
    for levels in (2, 5, 1000):
        a, b = rng.normal(size=60), rng.integers(levels, size=60).astype(float)
        a += b / levels
        assert spearman(a, b) == pytest.approx(scipy_stats.spearmanr(a, b).statistic, abs=1e-11)
        assert spearman(b, -b) == pytest.approx(-1.0)
    assert spearman([1.0, 1.0], [1.0, 2.0]) is None


@pytest.mark.parametrize("x", [[], [1.0, math.nan], [math.inf, 1.0]])
def test_what_is_no_sample_is_refused_in_one_line(x: list[float]) -> None:
    with pytest.raises(NumericsError, match="interval: "):
        bootstrap_mean(x)


def test_unequal_pairs_and_impossible_shares_are_refused() -> None:
    with pytest.raises(NumericsError, match="2 numbers against 1"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(NumericsError, match="nan|not all finite"):
        win_rate([math.nan, 1.0], [0.0, 0.0])
    for k, n in ((1, 0), (5, 4), (-1, 4)):
        with pytest.raises(NumericsError, match="no share"):
            wilson(k, n)
