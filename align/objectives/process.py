"""Losses of a reward model on the steps of an answer, one score and one label per step."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from align.objectives.reduce import Loss, Metric
from align.registry import Registry


class ProcessLoss(Protocol):
    """What every loss on steps is called with."""

    def __call__(self, scores: Tensor, labels: Tensor) -> Loss:
        """Sum over C steps from [C] scores and labels."""


PROCESS_LOSSES: Registry[ProcessLoss] = Registry("process loss")


@PROCESS_LOSSES.register("bce")
def bce(scores: Tensor, labels: Tensor) -> Loss:
    """Binary cross-entropy: the score is the log-odds that a step is right.

    Equation: L = sum_steps - y log sigmoid(s) - (1 - y) log sigmoid(-s) (process supervision,
    arXiv:2211.14275, arXiv:2305.20050). Departure: one score where these have two classes, whose difference
    of logits it is; labels between 0 and 1 are probabilities.

    Args:
        scores: [C], with gradient.
        labels: [C] 0 to 1.

    Returns:
        The sum; divide by the number of steps. Metrics: `loss`, and `accuracy`, the share of steps on the
        right side of 1/2 (a score of 0 says wrong).

    Example:
        >>> import torch
        >>> scores, labels = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])
        >>> round(float(bce(scores, labels).total), 4)  # ln 2 + log(1 + e^2)
        2.8201
    """
    total = F.binary_cross_entropy_with_logits(scores, labels, reduction="sum")
    right = ((scores.detach() > 0) == (labels > 0.5)).float().sum()
    return Loss(total, {"loss": Metric(total, len(scores)), "accuracy": Metric(right, len(scores))})


@PROCESS_LOSSES.register("mse")
def mse(scores: Tensor, labels: Tensor) -> Loss:
    """Squared error: the score is the value of a step itself, such as the return that follows it.

    Equation: L = sum_steps (s - y)^2.

    Args:
        scores: [C], with gradient.
        labels: [C] any numbers.

    Returns:
        The sum; divide by the number of steps. Metrics: `loss`, and `error`, the mean distance.

    Example:
        >>> import torch
        >>> float(mse(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])).total)
        5.0
    """
    total = (scores - labels).square().sum()
    error = (scores.detach() - labels).abs().sum()
    return Loss(total, {"loss": Metric(total, len(scores)), "error": Metric(error, len(scores))})
