"""Numbers as people read them. One place, so that the terminal and the page say the same."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval over `n` prompts, as the evaluation wrote it."""

    mean: float
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @property
    def lowest(self) -> float:
        """The lower end, or the mean where there is no interval."""
        return self.mean if self.low is None else self.low

    @property
    def clearly_above_zero(self) -> bool:
        """The whole interval lies above zero; without an interval nothing is clear."""
        return self.low is not None and self.low > 0

    @property
    def clearly_below_zero(self) -> bool:
        """The whole interval lies below zero."""
        return self.high is not None and self.high < 0


def finite(value: object) -> float | None:
    """`value` as a finite float, or None where it is no such number (booleans are none)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def read_interval(value: object) -> Interval | None:
    """An interval from `{"mean", "low", "high", "n"}` or from a bare number; None where there is neither."""
    if not isinstance(value, dict):
        number = finite(value)
        return None if number is None else Interval(number)
    mean = finite(value.get("mean"))
    if mean is None:
        return None
    n = finite(value.get("n"))
    return Interval(mean, finite(value.get("low")), finite(value.get("high")), None if n is None else int(n))


def _decimals(interval: Interval, scale: float = 1.0) -> int:
    """As many decimals as show two digits of the interval's half width (at least 1, at most 4)."""
    if interval.low is None or interval.high is None or interval.high <= interval.low:
        return 2
    half = scale * (interval.high - interval.low) / 2
    return min(4, max(1, 1 - math.floor(math.log10(half))))


def _spelled(interval: Interval, scale: float, decimals: int, sign: bool, unit: str) -> str:
    number = "+.{}f" if sign else ".{}f"
    head = format(scale * interval.mean, number.format(decimals)) + unit
    if interval.low is None or interval.high is None:
        return head
    return f"{head} [{scale * interval.low:.{decimals}f}, {scale * interval.high:.{decimals}f}]"


def spell(interval: Interval, sign: bool = False) -> str:
    """A mean with its interval, in its own unit.

    Example:
        >>> spell(Interval(1.9, 1.2, 2.6), sign=True)
        '+1.90 [1.20, 2.60]'
    """
    return _spelled(interval, 1.0, _decimals(interval), sign, "")


def percent(interval: Interval) -> str:
    """A rate from 0 to 1 in percent.

    Example:
        >>> percent(Interval(0.61, 0.552, 0.665))
        '61.0 % [55.2, 66.5]'
    """
    return _spelled(interval, 100.0, 1, False, " %")


def points(interval: Interval) -> str:
    """A difference of two rates, in percentage points.

    Example:
        >>> points(Interval(0.04, -0.02, 0.1))
        '+4.0 points [-2.0, 10.0]'
    """
    return _spelled(interval, 100.0, 1, True, " points")


def compact(value: float) -> str:
    """A number in at most about five characters.

    Example:
        >>> [compact(x) for x in (0.0, 0.00012, 0.614, 3.25, 84, 1932, 2_500_000)]
        ['0', '1.2e-04', '0.614', '3.25', '84', '1.9k', '2.5M']
    """
    size = abs(value)
    if not math.isfinite(value) or value == 0:
        return "0" if value == 0 else str(value)
    if size < 0.001:
        return f"{value:.1e}"
    if size < 999.5:
        return f"{value:.3g}"
    return f"{value / 1000:.1f}k" if size < 999_950 else f"{value / 1_000_000:.1f}M"


def duration(seconds: float) -> str:
    """Seconds in words.

    Example:
        >>> [duration(s) for s in (0.4, 8, 190, 3120, 7500)]
        ['0.4 s', '8 s', '3 min 10 s', '52 min', '2 h 05 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
