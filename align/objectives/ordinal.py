"""Ratings on an ordered scale: one score per answer, cut into classes by thresholds that are learned too.

Shape legend: B prompts, K answers of the longest, J classes, 0 the lowest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from align.objectives.reduce import Loss, Metric


def cumulative_link(scores: Tensor, classes: Tensor, mask: Tensor, thresholds: Tensor) -> Loss:
    """Negative log-likelihood of ordered classes under the proportional odds model.

    Equation: P(Y <= j | s) = sigmoid(t_j - s) with t_0 < ... < t_{J-2}, so that L = sum_prompts mean_answers
    - log(sigmoid(t_y - s) - sigmoid(t_{y-1} - s)), where t_{-1} = -inf and t_{J-1} = inf (P. McCullagh,
    "Regression models for ordinal data", J. R. Statist. Soc. B 42, 1980). Departures: the score is a model's
    output where McCullagh has a linear predictor, and the mean is over a prompt's answers, so that every
    prompt has the same weight.

    Args:
        scores: [B, K] scores, with gradient.
        classes: [B, K] integers from 0, the lowest, to J - 1.
        mask: [B, K] true on real answers; what stands elsewhere has no effect, whatever it is.
        thresholds: [J - 1] increasing, with gradient.

    Returns:
        The sum; divide by the number of prompts. Metrics: `loss`; `class/accuracy` and `class/error`, the
        share of answers whose class is met and the mean distance to it in classes, both means over a
        prompt's answers.

    Example:
        A score on the lower of two thresholds: the lowest class has probability 1/2.

        >>> scores, mask = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
        >>> loss = cumulative_link(scores, torch.tensor([[0]]), mask, torch.tensor([0.0, 1.0]))
        >>> round(float(loss.total.neg().exp()), 6)
        0.5
    """
    mask = mask.bool()
    scores, classes = scores.masked_fill(~mask, 0.0), classes.masked_fill(~mask, 0)
    places = classes.clamp(max=len(thresholds) - 1), (classes - 1).clamp(min=0)
    above, below = (thresholds[place] for place in places)
    # Of b > a, sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)): no difference of near 1s.
    top, bottom = classes == len(thresholds), classes == 0
    upper = torch.where(top, 0.0, F.logsigmoid(above - scores))
    lower = torch.where(bottom, 0.0, F.logsigmoid(scores - below))
    width = torch.where(top | bottom, 1.0, above - below)
    between = torch.where(top | bottom, 0.0, torch.log(-torch.expm1(-width)))
    each = -(upper + lower + between)
    wrong = (classes_of(scores.detach(), thresholds.detach()) - classes).abs().to(scores.dtype)
    loss, error, right = (_mean_over_answers(x, mask).sum() for x in (each, wrong, (wrong == 0).float()))
    named = {"loss": loss, "class/accuracy": right, "class/error": error}
    return Loss(loss, {name: Metric(value, len(scores)) for name, value in named.items()})


def classes_of(scores: Tensor, thresholds: Tensor) -> Tensor:
    """The class of the median, whose mean distance to the truth is least: the number of thresholds below.

    Args:
        scores: Scores of any shape.
        thresholds: [J - 1] increasing.

    Returns:
        Integers of the same shape.

    Example:
        >>> classes_of(torch.tensor([-1.0, 0.5, 9.0]), torch.tensor([0.0, 1.0])).tolist()
        [0, 1, 2]
    """
    return (scores.unsqueeze(-1) > thresholds).sum(dim=-1)


def marginal_thresholds(counts: Sequence[int]) -> Tensor:
    """Thresholds that give every class its frequency at a score of 0.

    Equation: t_j = logit of the share of classes up to j, each count with 1/2 added so that a class that was
    never seen keeps a place.

    Args:
        counts: [J] answers of each class.

    Returns:
        [J - 1] increasing.

    Example:
        >>> [round(t, 4) for t in marginal_thresholds([1, 0, 1]).tolist()]  # logit(1.5 / 3.5), logit(2 / 3.5)
        [-0.2877, 0.2877]
    """
    shares = torch.tensor(counts, dtype=torch.float64) + 0.5
    return torch.logit(shares.cumsum(0)[:-1] / shares.sum()).float()


def steps_of(thresholds: Tensor) -> Tensor:
    """What is learned in place of thresholds: the first, and the logarithms of the steps between them."""
    return torch.cat([thresholds[:1], thresholds.diff().log()])


def thresholds_of(steps: Tensor) -> Tensor:
    """[J - 1] thresholds, increasing whatever the steps are; undoes `steps_of`.

    Example:
        >>> thresholds_of(steps_of(torch.tensor([-1.0, 0.5, 3.0]))).tolist()
        [-1.0, 0.5, 3.0]
    """
    return torch.cat([steps[:1], steps[1:].exp()]).cumsum(0)


def _mean_over_answers(x: Tensor, mask: Tensor) -> Tensor:
    """[B] mean over each prompt's answers."""
    return x.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
