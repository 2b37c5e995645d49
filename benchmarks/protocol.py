"""How two sides are compared: interleaved pairs on the same rows, and no ratio unless their losses agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from benchmarks.spec import Trace

LOSS, NORM = (
    1e-4,
    1e-3,
)  # relative; of the gradient norm as well, since DPO's first loss is ln 2 whatever the model
PAIRS = 7  # fewer make no claim
OURS, THEIRS = "ours", "theirs"


class NoRatio(Exception):
    """Why a comparison has no ratio."""


@dataclass(frozen=True)
class Pair:
    """Both sides on one batch of rows."""

    ours: Trace
    theirs: Trace


def interleaved(pairs: int) -> list[tuple[int, str]]:
    """Number of the pair and whose turn it is: A B, B A, A B, ..., so that a slow drift hits both alike.

    Example:
        >>> interleaved(2)
        [(0, 'ours'), (0, 'theirs'), (1, 'theirs'), (1, 'ours')]
    """
    return [(n, side) for n in range(pairs) for side in ((OURS, THEIRS) if n % 2 == 0 else (THEIRS, OURS))]


def difference(ours: Trace, theirs: Trace, loss: float = LOSS, norm: float = NORM) -> str | None:
    """How the two did not compute the same, or None. Sampled answers must be the same, token for token.

    Args:
        ours: One side.
        theirs: The other.
        loss: Relative difference of a step's losses that rounding explains.
        norm: The same of gradient norms.
    """
    if ours.tokens or theirs.tokens:
        return _other_answers(ours.tokens, theirs.tokens)
    for what, a, b, tolerance in (
        ("loss", ours.losses, theirs.losses, loss),
        ("gradient norm", ours.norms, theirs.norms, norm),
    ):
        if not a or len(a) != len(b):
            return f"{len(a)} steps against {len(b)}"
        for step, (x, y) in enumerate(zip(a, b, strict=True), 1):
            gap = abs(x - y) / abs(y) if y and math.isfinite(x) and math.isfinite(y) else math.inf
            if gap > tolerance:
                return f"{what} of step {step}: {x:.6g} against {y:.6g}, {gap:.0e} apart, above {tolerance:g}"
    return None


def _other_answers(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> str | None:
    if len(ours) != len(theirs):
        return f"{len(ours)} answers against {len(theirs)}"
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True), 1):
        if list(a) != list(b):
            return f"answer {number} of {len(ours)}: {len(a)} tokens against {len(b)}, or others"
    return None


def measure(
    run: Callable[[str, int], Trace],
    pairs: int,
    seconds: float,
    clock: Callable[[], float] = monotonic,
) -> list[Pair]:
    """The pairs of one comparison.

    Args:
        run: Lets a side train on the rows of a pair.
        pairs: How many.
        seconds: That are left; a comparison that would not end in time is given up after a pair.
        clock: Seconds since whenever.

    Raises:
        NoRatio: The sides did not compute the same, or time was short.
    """
    start = clock()
    found: list[Pair] = []
    turns = interleaved(pairs)
    for (number, side), (_, other) in zip(turns[::2], turns[1::2], strict=True):
        traces = {side: run(side, number)}
        traces[other] = run(other, number)
        pair = Pair(traces[OURS], traces[THEIRS])
        apart = difference(pair.ours, pair.theirs)
        if apart is not None:
            raise NoRatio(f"the sides do not agree: {apart}")
        found.append(pair)
        needed = (clock() - start) / len(found) * pairs
        if len(found) < pairs and needed > seconds:
            raise NoRatio(f"{pairs} pairs would take {needed:.0f} s, and {max(0.0, seconds):.0f} s were left")
    return found


def refuse_if_late(warm: float, share: float, pairs: int, seconds: float) -> None:
    """Give a comparison up before its first pair where it cannot end in time.

    Args:
        warm: Seconds that both sides took for the warm-up.
        share: Part of a run's rows that the warm-up had.
        pairs: To come.
        seconds: That are left.

    Raises:
        NoRatio: It would not.
    """
    needed = warm / share * pairs
    if needed > seconds:
        raise NoRatio(
            f"{pairs} pairs would take about {needed:.0f} s, and {max(0.0, seconds):.0f} s were left"
        )


def worst_difference(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Largest relative difference of losses and of gradient norms."""
    losses = [(x, y) for p in pairs for x, y in zip(p.ours.losses, p.theirs.losses, strict=True)]
    norms = [(x, y) for p in pairs for x, y in zip(p.ours.norms, p.theirs.norms, strict=True)]
    loss, norm = (max((abs(x - y) / abs(y) for x, y in found), default=0.0) for found in (losses, norms))
    return loss, norm
