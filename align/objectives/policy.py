"""Policy-gradient losses on sampled tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from align.objectives.kl import LOG_RATIO_LIMIT, k3
from align.objectives.reduce import Loss, Metric


def clipped_ratio(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float,
    entropy: Tensor | None = None,
) -> Loss:
    """PPO's clipped surrogate, per token.

    Equation: with rho = exp(log pi - log pi_old), L = sum_tokens - min(rho A, clip(rho, 1 - e, 1 + e) A)
    (arXiv:1707.06347, Eq. 7; the sign is turned, since losses are minimised). Departure: log rho is cut to
    +-`LOG_RATIO_LIMIT` before exp, and tokens that were cut are counted; they carry no gradient.

    Args:
        logps: [S, T] log-probabilities of the sampled tokens under the policy, with gradient. All tensors may
            have any one shape, such as [N] flat tokens.
        old_logps: [S, T] the same when they were sampled.
        advantages: [S, T] advantages.
        mask: [S, T] true on real tokens; what stands elsewhere has no effect, whatever it is.
        clip: e of the equation.
        entropy: [S, T] entropy of the policy at each token, for the log only.

    Returns:
        The sum; divide by the number of real tokens. Metrics: `loss/policy`, `policy/clipfrac` (tokens whose
        clipped term is the larger loss), `policy/approxkl` (k3 of old and new), `policy/ratio` (mean),
        `policy/ratio_cut` (number of tokens whose log-ratio was cut), `policy/entropy` if given.

    Example:
        A ratio of 2 with advantage 1 is clipped at 1.2; a ratio of 1 with advantage -1 is not.

        >>> logps = torch.tensor([[-1.0 + 0.6931472, -1.0]])
        >>> ones = torch.ones(1, 2)
        >>> loss = clipped_ratio(logps, -ones, torch.tensor([[1.0, -1.0]]), ones.bool(), clip=0.2)
        >>> round(float(loss.total), 6), float(loss.metrics["policy/clipfrac"].total)
        (-0.2, 1.0)
    """
    mask = mask.bool()
    logps, old_logps, advantages = (x.masked_fill(~mask, 0.0) for x in (logps, old_logps, advantages))
    raw = logps - old_logps
    ratio = raw.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    # Padding has advantage 0 and so adds nothing.
    total = torch.maximum(unclipped, clipped).sum()
    tokens = mask.sum()
    metrics = {
        "loss/policy": Metric(total, tokens),
        "policy/clipfrac": Metric((clipped > unclipped).sum(), tokens),
        "policy/approxkl": Metric(k3(old_logps, logps).sum(), tokens),
        "policy/ratio": Metric(ratio.masked_fill(~mask, 0.0).sum(), tokens),
        "policy/ratio_cut": Metric((raw.abs() > LOG_RATIO_LIMIT).sum()),
    }
    if entropy is not None:
        metrics["policy/entropy"] = Metric(entropy.masked_fill(~mask, 0.0).sum(), tokens)
    return Loss(total, metrics)
