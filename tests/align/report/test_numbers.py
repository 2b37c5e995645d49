"""Numbers in words, worked out by hand."""

from __future__ import annotations

import math

import pytest

from align.report.numbers import Interval, compact, duration, percent, points, read_interval, spell


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(1.9, 1.2, 2.6), "1.90 [1.20, 2.60]"),  # half width 0.7: two decimals
        (Interval(-11.04, -21.0, -1.0), "-11.0 [-21.0, -1.0]"),  # 10: at least one
        (Interval(0.01234, 0.0101, 0.0146), "0.0123 [0.0101, 0.0146]"),  # 0.002: four
        (Interval(1e-6, 0.0, 2e-6), "0.0000 [0.0000, 0.0000]"),  # at most four
        (Interval(0.5), "0.50"),
        (Interval(2.0, 2.0, 2.0), "2.00 [2.00, 2.00]"),
    ],
)
def test_spell(interval: Interval, text: str) -> None:
    assert spell(interval) == text


def test_signs_percents_and_points() -> None:
    assert spell(Interval(1.9, 1.2, 2.6), sign=True) == "+1.90 [1.20, 2.60]"
    assert percent(Interval(0.61, 0.552, 0.665)) == "61.0 % [55.2, 66.5]"
    assert points(Interval(-0.04, -0.1, 0.02)) == "-4.0 points [-10.0, 2.0]"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"mean": 1, "low": 0.5, "high": 2.0, "n": 7}, Interval(1.0, 0.5, 2.0, 7)),
        ({"mean": 1.0}, Interval(1.0)),
        (0.25, Interval(0.25)),
        (None, None),
        ("0.5", None),
        (True, None),
        ({"mean": math.nan}, None),
        ({"mean": 1.0, "low": math.inf}, Interval(1.0)),
    ],
)
def test_read_interval(value: object, expected: Interval | None) -> None:
    assert read_interval(value) == expected


@pytest.mark.parametrize(
    ("interval", "above", "below"),
    [
        (Interval(1.0, 0.1, 2.0), True, False),
        (Interval(1.0, 0.0, 2.0), False, False),
        (Interval(-1.0, -2.0, -0.1), False, True),
        (Interval(-1.0, -2.0, 0.0), False, False),
        (Interval(5.0), False, False),
    ],
)
def test_clear_of_zero(interval: Interval, above: bool, below: bool) -> None:
    assert (interval.clearly_above_zero, interval.clearly_below_zero) == (above, below)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (599, "9 min 59 s"),
        (600, "10 min"),
        (3599, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-0.614, "-0.614"), (999.6, "1.0k"), (1932, "1.9k"), (999_960, "1.0M"), (math.nan, "nan")],
)
def test_compact(value: float, text: str) -> None:
    assert compact(value) == text
