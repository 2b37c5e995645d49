"""Maximum likelihood of given tokens: supervised fine-tuning."""

from __future__ import annotations

import torch
from torch import Tensor

from align.objectives.reduce import Loss, Metric


def nll(logps: Tensor, weights: Tensor) -> Loss:
    """Weighted negative log-likelihood of target tokens.

    Equation: L = - sum_c w_c log p(y_c | y_<c, x), maximum likelihood of demonstrations as in
    arXiv:2203.02155, Sec. 3.5. Departure: a weight per token; 0 leaves a token out altogether, even where
    its log-probability is not finite.

    Args:
        logps: [C] log-probability of each target token.
        weights: [C] loss weights, not negative.

    Returns:
        The sum; divide by the sum of all weights. Metrics: `loss` (weighted mean), `nll` (plain mean over the
        tokens with a weight, so that exp(nll) is their perplexity) and `tokens` (their number).

    Example:
        >>> import torch
        >>> loss = nll(torch.tensor([-1.0, -3.0, -9.0]), torch.tensor([1.0, 0.5, 0.0]))
        >>> float(loss.total), float(loss.metrics["nll"].total), float(loss.metrics["tokens"].total)
        (2.5, 4.0, 2.0)
    """
    plain = -logps.masked_fill(weights == 0, 0.0)
    return _weighted(plain, plain, weights)


def smoothed_nll(logps: Tensor, means: Tensor, weights: Tensor, smoothing: float) -> Loss:
    """`nll` against targets of which a part is spread evenly over the vocabulary (arXiv:1512.00567, Sec. 7).

    Equation: L = - sum_c w_c [(1 - e) log p(y_c) + e / V sum_v log p(v)].

    Args:
        logps: [C] log-probability of each target token.
        means: [C] mean of the log-probabilities over the vocabulary.
        weights: [C] loss weights, not negative.
        smoothing: e, the part that is spread.

    Returns:
        As `nll`; its metric `nll` is without the smoothing.

    Example:
        >>> import torch
        >>> loss = smoothed_nll(torch.tensor([-1.0]), torch.tensor([-5.0]), torch.ones(1), 0.25)
        >>> float(loss.total), float(loss.metrics["nll"].total)
        (2.0, 1.0)
    """
    left_out = weights == 0
    plain = -logps.masked_fill(left_out, 0.0)
    return _weighted((1 - smoothing) * plain - smoothing * means.masked_fill(left_out, 0.0), plain, weights)


def dft(logps: Tensor, weights: Tensor) -> Loss:
    """Dynamic fine-tuning: each token's loss times its own probability, which is held fixed.

    Equation: L = - sum_c w_c sg(p(y_c)) log p(y_c), arXiv:2508.05629.

    Args:
        logps: [C] log-probability of each target token.
        weights: [C] loss weights, not negative.

    Returns:
        As `nll`; divide by the sum of all weights, the probabilities not counted.

    Example:
        >>> import torch
        >>> logps = torch.tensor([0.5, 0.25]).log().requires_grad_()
        >>> dft(logps, torch.ones(2)).total.backward()
        >>> logps.grad.tolist()
        [-0.5, -0.25]
    """
    plain = -logps.masked_fill(weights == 0, 0.0)
    return _weighted(plain * torch.exp(-plain.detach()), plain, weights)


def _weighted(losses: Tensor, plain: Tensor, weights: Tensor) -> Loss:
    """The weighted sum of [C] losses, beside the plain negative log-likelihood."""
    total = (losses * weights).sum()
    tokens = (weights != 0).sum()
    return Loss(
        total,
        {
            "loss": Metric(total, weights.sum()),
            "nll": Metric(plain.sum(), tokens),
            "tokens": Metric(tokens),
        },
    )
