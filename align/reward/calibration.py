"""Does a reward model mean what it says? sigmoid(score difference) is a probability to be checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from align.data.types import Ranking
from align.reward.baselines import Floats, pairs


class Predictions(NamedTuple):
    """What a model said of P pairs.

    Attributes:
        prob: [P] probability, 1/2 to 1, that the answer with the higher score is better.
        outcome: [P] 1 where it is, 0 where it is not, 1/2 where the scores are equal.
        weight: [P] weight of each pair; a prompt's pairs weigh 1 together.
    """

    prob: Floats
    outcome: Floats
    weight: Floats


@dataclass(frozen=True)
class Reliability:
    """Calibration in bins of predicted probability.

    Attributes:
        ece: Expected calibration error.
        bins: For each bin that holds anything: `p` mean prediction, `observed` share, `n` predictions.
    """

    ece: float
    bins: list[dict[str, float]]


def pair_probabilities(
    scores: Sequence[Sequence[float] | Floats], rankings: Sequence[Ranking]
) -> Predictions:
    """Predictions on all pairs of different tiers, each pair told as "the higher score is better".

    Args:
        scores: For each ranking its K scores.
        rankings: The rankings.

    Returns:
        P predictions; none for a ranking of one tier.

    Example:
        >>> from align.data.types import Message
        >>> ranking = Ranking("a", (Message("user", "?"),), ("good", "bad"), (0, 1))
        >>> found = pair_probabilities([[0.0, 1.0]], [ranking])  # the wrong one is ahead by 1
        >>> round(float(found.prob[0]), 4), float(found.outcome[0])
        (0.7311, 0.0)
    """
    ahead, weight = [np.zeros(0)], [np.zeros(0)]
    for mine, ranking in zip(scores, rankings, strict=True):
        better, worse = pairs(ranking)
        values = np.asarray(mine, dtype=np.float64)
        ahead.append(values[better] - values[worse])
        weight.append(np.full(len(better), 1.0 / max(len(better), 1)))
    difference = np.concatenate(ahead)
    # tanh form of the sigmoid: no overflow.
    prob = 0.5 + 0.5 * np.tanh(np.abs(difference) / 2)
    return Predictions(prob, (np.sign(difference) + 1) / 2, np.concatenate(weight))


def reliability(prob: Floats, outcome: Floats, weight: Floats | None = None, bins: int = 10) -> Reliability:
    """Reliability curve and expected calibration error.

    Equation: ECE = sum_b weight_b / weight |observed_b - predicted_b| over bins of equal width on 0 to 1
    (arXiv:1706.04599, Eq. 3). Departure: weights.

    Args:
        prob: [P] predicted probabilities.
        outcome: [P] what happened, 0 to 1.
        weight: [P] weights; all equal by default.
        bins: Number of bins; a bin holds its lower edge, the last one 1 as well.

    Returns:
        The curve; an error of 0 and no bins for no predictions.

    Example:
        >>> curve = reliability(np.array([0.72, 0.78, 0.95]), np.array([1.0, 0.0, 1.0]))
        >>> round(curve.ece, 4), curve.bins[0]  # 2/3 |0.5 - 0.75| + 1/3 |1 - 0.95|
        (0.1833, {'p': 0.75, 'observed': 0.5, 'n': 2.0})
    """
    weight = np.ones(len(prob)) if weight is None else weight
    place = np.minimum((prob * bins).astype(np.int64), bins - 1)
    error, curve = 0.0, []
    for b in np.unique(place):
        inside = place == b
        p = float(np.average(prob[inside], weights=weight[inside]))
        observed = float(np.average(outcome[inside], weights=weight[inside]))
        error += float(weight[inside].sum() / weight.sum()) * abs(observed - p)
        curve.append({"p": p, "observed": observed, "n": float(inside.sum())})
    return Reliability(error, curve)


def ece(prob: Floats, outcome: Floats, bins: int = 10) -> float:
    """Expected calibration error of equally weighted predictions, see `reliability`.

    Example:
        >>> ece(np.array([0.5, 0.5]), np.array([1.0, 0.0]))
        0.0
    """
    return reliability(prob, outcome, bins=bins).ece
