"""Estimators of the divergence between two policies from the log-probabilities of sampled tokens.

All estimate KL(p || q) for tokens sampled from p, per token: J. Schulman, "Approximating KL divergence",
http://joschu.net/blog/kl-approx.html, 2020. `k1` is unbiased and may be negative, `k3` is unbiased and
never negative.
"""

from __future__ import annotations

from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""A log-ratio is cut to +-20 before exp: e^20 is 5e8, far beyond any ratio that means something."""


def k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Log-ratio, log p - log q: the penalty inside the reward of RLHF (arXiv:2203.02155, Eq. 2).

    Args:
        logps: Log-probabilities under the policy that sampled, of any shape.
        ref_logps: The same tokens under the reference.

    Returns:
        One number per token, same shape.

    Example:
        >>> import torch
        >>> k1(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])).tolist()
        [0.5, -1.0]
    """
    return logps - ref_logps


def k2(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Half the squared log-ratio: biased, never negative, and its gradient is that of the true divergence.

    Args:
        logps: Log-probabilities under the policy that sampled, of any shape.
        ref_logps: The same tokens under the reference.

    Returns:
        One number per token, same shape, not negative.

    Example:
        >>> import torch
        >>> k2(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])).tolist()
        [0.125, 0.5]
    """
    return 0.5 * (logps - ref_logps).square()


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """q/p - 1 - log(q/p), as in arXiv:2402.03300, Eq. 4.

    Departure: log(q/p) is cut to +-`LOG_RATIO_LIMIT`, so that the result is finite for any finite input.

    Args:
        logps: Log-probabilities under the policy that sampled, of any shape.
        ref_logps: The same tokens under the reference.

    Returns:
        One number per token, same shape, not negative.

    Example:
        >>> import torch
        >>> round(float(k3(torch.tensor(-1.0), torch.tensor(-1.0 + 0.6931472))), 4)  # 2 - 1 - log 2
        0.3069
    """
    log_ratio = (ref_logps - logps).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return log_ratio.expm1() - log_ratio
