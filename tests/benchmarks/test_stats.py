from __future__ import annotations

import pytest

from benchmarks.stats import paired_ratio


def test_the_median_of_ratios_is_not_the_ratio_of_medians() -> None:
    found = paired_ratio(theirs=[10.0, 2.0, 9.0], ours=[1.0, 1.0, 3.0])  # ratios 10, 2, 3
    assert (found.median, found.n) == (3.0, 3)


def test_an_even_number_of_pairs_takes_the_middle_of_two() -> None:
    assert paired_ratio([2.0, 4.0], [1.0, 1.0]).median == 3.0


def test_the_interval_of_equal_ratios_has_no_width() -> None:
    found = paired_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.0)


def test_the_interval_by_counting_every_resample() -> None:
    """Of the 27 draws from ratios 1, 2, 4, seven have median 1 and seven median 4: both above 2.5 %."""
    found = paired_ratio([1.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    assert (found.low, found.high) == (1.0, 4.0)


def test_the_interval_leaves_rare_medians_out() -> None:
    """Of 7 pairs with one outlier, the median is the outlier in 1 % of the draws (4 of 7 or more)."""
    found = paired_ratio([2.0] * 6 + [50.0], [1.0] * 7)
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.0)


def test_pairs_stay_together() -> None:
    """Seconds that vary tenfold, but with one ratio, give an interval without width."""
    assert paired_ratio([30.0, 3.0, 300.0], [10.0, 1.0, 100.0]).high == 3.0


def test_the_same_numbers_give_the_same_interval() -> None:
    theirs, ours = [3.1, 2.9, 3.4, 3.0, 2.7, 3.3, 3.2], [1.0, 1.1, 0.9, 1.0, 1.2, 1.0, 0.95]
    assert paired_ratio(theirs, ours) == paired_ratio(theirs, ours)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([float("nan")], [1.0]), ([-1.0], [1.0])],
)
def test_what_has_no_ratio_is_refused(theirs: list[float], ours: list[float]) -> None:
    with pytest.raises(ValueError, match="pairs|above 0"):
        paired_ratio(theirs, ours)
