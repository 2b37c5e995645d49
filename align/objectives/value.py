"""Losses and measures of the critic."""

from __future__ import annotations

import torch
from torch import Tensor

from align.objectives.reduce import Loss, Metric


def clipped_value(values: Tensor, old_values: Tensor, returns: Tensor, weights: Tensor, clip: float) -> Loss:
    """Squared error of the critic, with its step away from the sampling-time value clipped.

    Equation: L = sum_tokens w/2 max((V - R)^2, (clip(V, V_old - e, V_old + e) - R)^2) (arXiv:2403.17031, with
    the factor 1/2 of its code). Departures: none.

    Args:
        values: [S, T] values of the critic, with gradient. All tensors may have any one shape, such as [N].
        old_values: [S, T] the same when the tokens were sampled.
        returns: [S, T] targets.
        weights: [S, T] w, as of the policy's loss (`objectives.policy.token_weights`); one of weight 0 has no
            effect, whatever else stands there.
        clip: e of the equation.

    Returns:
        The sum. Metrics: `loss/value`, `val/clipfrac` (tokens whose
        clipped error is the larger), `val/error` (mean squared error without clipping).

    Example:
        From 0 to 1 with clip 0.2 counts as a step to 0.2, which is further from the target 1.1.

        >>> one = torch.ones(1, 1)
        >>> loss = clipped_value(one, 0 * one, 1.1 * one, one, clip=0.2)
        >>> round(float(loss.total), 6), round(float(loss.metrics["val/error"].total), 6)
        (0.405, 0.01)
    """
    mask = weights > 0
    values, old_values, returns = (x.masked_fill(~mask, 0.0) for x in (values, old_values, returns))
    error = (values - returns).square()
    near = torch.minimum(torch.maximum(values, old_values - clip), old_values + clip)
    clipped_error = (near - returns).square()
    total = 0.5 * (weights * torch.maximum(error, clipped_error)).sum()
    tokens = mask.sum()
    return Loss(
        total,
        {
            "loss/value": Metric(total, weights.sum()),
            "val/clipfrac": Metric((clipped_error > error).sum(), tokens),
            "val/error": Metric(error.sum(), tokens),
        },
    )


@torch.no_grad()
def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """Part of the returns' variance that the critic explains: 1 - Var(R - V) / Var(R).

    Not a sum over tokens: measure it once, on all tokens of a round.

    Args:
        values: [S, T] values.
        returns: [S, T] targets.
        mask: [S, T] true on real tokens.

    Returns:
        1 is perfect, 0 no better than a constant, below 0 worse; 0 where the returns do not vary.

    Example:
        >>> returns = torch.tensor([[0.0, 2.0]])
        >>> explained_variance(torch.tensor([[0.5, 1.5]]), returns, torch.ones(1, 2).bool())
        0.75
    """
    mask = mask.bool()
    real, guess = returns[mask].double(), values[mask].double()
    if not real.numel():
        return 0.0
    variance = real.var(unbiased=False)
    # Equal float32 numbers leave rounding noise, which must not be divided by.
    if variance <= 1e-12 * real.square().mean():
        return 0.0
    return float(1 - (real - guess).var(unbiased=False) / variance)
