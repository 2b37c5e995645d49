"""Policy-gradient losses on sampled tokens, reinforced by their advantages.

All take flat tokens [N], or any one shape, with a weight for each token: 1 for a mean over tokens, 1 / length
for a mean over answers, 1 / limit for a constant normaliser (`token_weights`). Each returns the weighted
sum; the caller divides by tokens or by answers.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from align.objectives.kl import LOG_RATIO_LIMIT, k2, k3
from align.objectives.reduce import Loss, Metric

Normaliser = Literal["token", "sequence", "constant"]
Level = Literal["token", "geometric_mean", "product"]


def token_weights(lengths: Tensor, by: Normaliser, limit: int) -> Tensor:
    """What a token of each answer weighs in the sum, where the sum is divided by `token_count`.

    token: 1 (DAPO, arXiv:2503.14476, Eq. 8, and PPO); sequence: 1 / length, so each answer counts alike
    (GRPO, arXiv:2402.03300, Eq. 3); constant: 1 / limit, so a long answer is not weakened (Dr. GRPO,
    arXiv:2503.20783).

    Args:
        lengths: [S] tokens of each answer.
        by: The normaliser.
        limit: Most tokens that an answer may have.

    Returns:
        [S].

    Example:
        >>> [token_weights(torch.tensor([2, 4]), by, 8).tolist() for by in ("token", "sequence", "constant")]
        [[1.0, 1.0], [0.5, 0.25], [0.125, 0.125]]
    """
    if by == "token":
        return torch.ones(len(lengths))
    return 1 / (lengths.float() if by == "sequence" else torch.full((len(lengths),), float(limit)))


def token_count(lengths: Tensor, by: Normaliser) -> float:
    """What the sum of `token_weights` is divided by: tokens, or answers."""
    return float(lengths.sum()) if by == "token" else float(len(lengths))


def log_ratio(
    logps: Tensor, old_logps: Tensor, owners: Tensor | None = None, level: Level = "token"
) -> Tensor:
    """Log of the probability ratio of now and then, of each token or of the answer that it stands in.

    Equation: token: log pi_t - log pi_old,t; geometric_mean: their mean over the answer (GSPO,
    arXiv:2507.18071, Eq. 7); product: their sum, the ratio of the whole answer (RLOO with clipping, as in
    TRL 1.16).

    Args:
        logps: [N] log-probabilities of the sampled tokens, with gradient.
        old_logps: [N] the same when they were sampled.
        owners: [N] number of the answer that each token stands in, from 0; only `token` does without.
        level: Of the ratio.

    Returns:
        [N] with gradient; tokens of one answer share one number unless `level` is `token`.

    Example:
        >>> now, owners = torch.tensor([0.5, 1.5, 1.0]), torch.tensor([0, 0, 1])
        >>> log_ratio(now, torch.zeros(3), owners, "geometric_mean").tolist()
        [1.0, 1.0, 1.0]
        >>> log_ratio(now, torch.zeros(3), owners, "product").tolist()
        [2.0, 2.0, 1.0]
    """
    apart = logps - old_logps
    if level == "token" or owners is None:
        return apart
    count = int(owners.max()) + 1 if len(owners) else 0
    sums = apart.new_zeros(count).index_add(0, owners, apart)
    if level == "geometric_mean":
        sums = sums / torch.bincount(owners, minlength=count).clamp(min=1)
    return sums[owners]


def clipped_ratio(
    ratios: Tensor,
    advantages: Tensor,
    weights: Tensor,
    clip: float,
    clip_high: float | None = None,
    dual_clip: float | None = None,
) -> Loss:
    """PPO's clipped surrogate, per token.

    Equation: L = sum w max(-rho A, -clip(rho, 1 - e, 1 + e_high) A) (arXiv:1707.06347, Eq. 7;
    the sign is turned, since losses are minimised; e_high above e is clip-higher, arXiv:2503.14476, Eq. 10);
    with `dual_clip` c > 1 and A < 0 no more than -c A (arXiv:1912.09729, Eq. 5). Departure: log rho is cut to
    +-`LOG_RATIO_LIMIT` before exp, and tokens that were cut are counted; they carry no gradient.

    Args:
        ratios: Log-ratios of `log_ratio`, with gradient.
        advantages: Of each token.
        weights: Of each token; one of weight 0 has no effect, whatever else stands there.
        clip: e of the equation.
        clip_high: e_high; default: e.
        dual_clip: c; default: none.

    Returns:
        The sum. Metrics: `loss/policy`, `policy/clipfrac` (tokens whose clipped term is the larger loss),
        `policy/approxkl` (k3 of old and new), `policy/ratio` (mean), `policy/ratio_cut` (number of tokens
        whose log-ratio was cut).

    Example:
        A ratio of 2 with advantage 1 is clipped at 1.2; a ratio of 1 with advantage -1 is not.

        >>> ones = torch.ones(2)
        >>> loss = clipped_ratio(torch.tensor([0.6931472, 0.0]), torch.tensor([1.0, -1.0]), ones, clip=0.2)
        >>> round(float(loss.total), 6), float(loss.metrics["policy/clipfrac"].total)
        (-0.2, 1.0)
    """
    ratios, advantages, real = _real(ratios, advantages, weights)
    ratio = ratios.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    loss = torch.maximum(unclipped, clipped)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)
    return _loss(weights, loss, ratios, ratio, (clipped > unclipped) & real)


def clipped_weight(
    ratios: Tensor, logps: Tensor, advantages: Tensor, weights: Tensor, clip_high: float
) -> Loss:
    """CISPO: REINFORCE on every token, weighted by the ratio, which is clipped and carries no gradient.

    Equation: L = - sum w sg(min(rho, 1 + e_high)) A log pi (arXiv:2506.13585, Eq. 4 and 5,
    without a lower bound,
    as its authors ran it). No token loses its gradient, as it does in `clipped_ratio`. Departure: the cut of
    log rho as there.

    Args:
        ratios: Log-ratios of `log_ratio`.
        logps: Log-probabilities of the sampled tokens, with gradient.
        advantages: Of each token.
        weights: Of each token; one of weight 0 has no effect.
        clip_high: e_high.

    Returns:
        The sum, with the metrics of `clipped_ratio`.

    Example:
        >>> logps = torch.tensor([-1.0], requires_grad=True)
        >>> loss = clipped_weight(torch.tensor([0.6931472]), logps, torch.ones(1), torch.ones(1), 0.5)
        >>> loss.total.backward()
        >>> round(float(loss.total), 6), logps.grad.tolist()  # the ratio 2 counts as 1.5
        (1.5, [-1.5])
    """
    ratios, advantages, real = _real(ratios.detach(), advantages, weights)
    logps = logps.masked_fill(~real, 0.0)
    ratio = ratios.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    loss = -ratio.clamp(max=1 + clip_high) * advantages * logps
    return _loss(weights, loss, ratios, ratio, (ratio > 1 + clip_high) & real)


def kl_penalty(logps: Tensor, ref_logps: Tensor, weights: Tensor, estimator: Literal["k2", "k3"]) -> Loss:
    """Divergence from the reference as a loss, on tokens that the policy of then sampled.

    Equation: L = sum w k(log pi, log pi_ref) (GRPO with k3, arXiv:2402.03300, Eq. 4). The gradient of k1
    would be that of the log-probability alone, which is 0 in the mean, so it cannot serve here.

    Args:
        logps: Log-probabilities of the sampled tokens, with gradient.
        ref_logps: The same under the reference.
        weights: Of each token; one of weight 0 has no effect.
        estimator: Of `objectives.kl`.

    Returns:
        The sum. Metric: `loss/kl`, its mean.

    Example:
        >>> float(kl_penalty(torch.tensor([-1.0]), torch.tensor([-3.0]), torch.ones(1), "k2").total)
        2.0
    """
    real = weights > 0
    apart = (x.masked_fill(~real, 0.0) for x in (logps, ref_logps))
    each = (k2 if estimator == "k2" else k3)(*apart)
    return Loss((weights * each).sum(), {"loss/kl": Metric(each.sum(), real.sum())})


def entropy_bonus(entropy: Tensor, weights: Tensor) -> Loss:
    """Entropy of the policy at each token, to be taken times a negative coefficient (arXiv:1602.01783).

    Args:
        entropy: In nats, with gradient where it shall act.
        weights: Of each token; one of weight 0 has no effect.

    Returns:
        The sum. Metric: `policy/entropy`, its mean.
    """
    real = weights > 0
    each = entropy.masked_fill(~real, 0.0)
    return Loss((weights * each).sum(), {"policy/entropy": Metric(each.sum(), real.sum())})


def _real(ratios: Tensor, advantages: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ratios and advantages without what stands at tokens of weight 0."""
    real = weights > 0
    return ratios.masked_fill(~real, 0.0), advantages.masked_fill(~real, 0.0), real


def _loss(weights: Tensor, each: Tensor, ratios: Tensor, ratio: Tensor, clipped: Tensor) -> Loss:
    real = weights > 0
    tokens, total = real.sum(), (weights * each).sum()
    metrics = {
        "loss/policy": Metric(total, weights.sum()),
        "policy/clipfrac": Metric(clipped.sum(), tokens),
        "policy/approxkl": Metric(k3(torch.zeros_like(ratios), ratios).masked_fill(~real, 0.0).sum(), tokens),
        "policy/ratio": Metric(ratio.masked_fill(~real, 0.0).sum(), tokens),
        "policy/ratio_cut": Metric((ratios.abs() > LOG_RATIO_LIMIT).sum()),
    }
    return Loss(total, metrics)
