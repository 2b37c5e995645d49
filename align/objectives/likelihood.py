"""Maximum likelihood of given tokens: supervised fine-tuning."""

from __future__ import annotations

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
    left_out = weights == 0
    losses = -logps.masked_fill(left_out, 0.0)
    total = (losses * weights).sum()
    tokens = (~left_out).sum()
    return Loss(
        total,
        {
            "loss": Metric(total, weights.sum()),
            "nll": Metric(losses.sum(), tokens),
            "tokens": Metric(tokens),
        },
    )
