"""Losses on single answers that people called good or bad, without pairs.

Both compare an implicit reward r = log pi(y|x) - log pi_ref(y|x) with a point of reference that the caller
estimates from many answers and gives as a constant.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from align.objectives.reduce import Loss, Metric


def kto(
    policy: Tensor,
    ref: Tensor,
    desirable: Tensor,
    z0: Tensor | float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Loss:
    """Kahneman-Tversky optimisation: gains and losses against a reference point, with weights of their own.

    Equation: L = sum_good w_d (1 - sigmoid(beta (r - z0))) + sum_bad w_u (1 - sigmoid(beta (z0 - r)))
    (arXiv:2402.01306). Departures: none; z0 is given. In the paper it is max(0, mean log-ratio of answers put
    to the prompts of other rows), without gradient.

    Args:
        policy: [B] log-prob of the whole answer under the policy, with gradient.
        ref: [B] under the reference.
        desirable: [B] true on answers that were called good.
        z0: Estimate of KL(pi || pi_ref) in nats, one number or [B]; not differentiated.
        beta: Above 0; the larger, the faster gains and losses saturate.
        desirable_weight: w_d, above 0.
        undesirable_weight: w_u, above 0.

    Returns:
        The sum; divide by B. Metrics: `loss`; `rewards/chosen` and `logps/chosen` of good answers,
        `rewards/rejected` and `logps/rejected` of bad ones.

    Example:
        >>> policy, good = torch.tensor([-1.0, -1.0]), torch.tensor([True, False])
        >>> loss = kto(policy, policy - 1, good, z0=1.0, beta=0.5)
        >>> loss.total.item()  # r = z0 for both
        1.0
    """
    desirable = desirable.bool()
    ratio = policy - ref
    point = torch.as_tensor(z0, dtype=ratio.dtype, device=ratio.device).detach()
    ahead = beta * (ratio - point)
    good = desirable_weight * torch.sigmoid(-ahead)
    bad = undesirable_weight * torch.sigmoid(ahead)
    return _summed(torch.where(desirable, good, bad), policy, beta * ratio, desirable)


def bco(
    policy: Tensor,
    ref: Tensor,
    desirable: Tensor,
    delta: Tensor | float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Loss:
    """Binary classifier optimisation: the implicit reward tells good answers from bad ones.

    Equation: L = - sum_good w_d log sigmoid(beta r - delta) - sum_bad w_u log sigmoid(- (beta r - delta))
    (arXiv:2404.04656). Departures: the weights, which the paper does not have; delta is given.
    In the paper it is the middle between the mean of beta r over good answers and that over bad ones, a
    moving average without gradient.

    Args:
        policy: [B] log-prob of the whole answer under the policy, with gradient.
        ref: [B] under the reference.
        desirable: [B] true on answers that were called good.
        delta: Reward shift, on the scale of beta r; one number or [B]; not differentiated.
        beta: Above 0.
        desirable_weight: w_d, above 0.
        undesirable_weight: w_u, above 0.

    Returns:
        The sum; divide by B. Metrics: `loss`; `rewards/chosen` and `logps/chosen` of good answers,
        `rewards/rejected` and `logps/rejected` of bad ones.

    Example:
        >>> policy, good = torch.tensor([-1.0, -1.0]), torch.tensor([True, False])
        >>> loss = bco(policy, policy - 1, good, delta=0.5, beta=0.5)
        >>> round(loss.total.item(), 4)  # twice ln 2
        1.3863
    """
    desirable = desirable.bool()
    rewards = beta * (policy - ref)
    shift = torch.as_tensor(delta, dtype=rewards.dtype, device=rewards.device).detach()
    ahead = rewards - shift
    good = -desirable_weight * F.logsigmoid(ahead)
    bad = -undesirable_weight * F.logsigmoid(-ahead)
    return _summed(torch.where(desirable, good, bad), policy, rewards, desirable)


def _summed(losses: Tensor, policy: Tensor, rewards: Tensor, desirable: Tensor) -> Loss:
    """The sum, with the means of good answers (`chosen`) and of bad ones (`rejected`)."""
    metrics = {"loss": Metric(losses.sum(), losses.numel())}
    for name, where in (("chosen", desirable), ("rejected", ~desirable)):
        count = where.sum()
        metrics[f"rewards/{name}"] = Metric(rewards.masked_fill(~where, 0.0).sum(), count)
        metrics[f"logps/{name}"] = Metric(policy.masked_fill(~where, 0.0).sum(), count)
    return Loss(losses.sum(), metrics)
