"""Losses of a reward model on rankings: K answers of one prompt in tiers, 0 is best, equal tiers are ties.

Every prompt has the same weight, however many answers it has.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from align.objectives.reduce import Loss, Metric
from align.registry import Registry


class RankingLoss(Protocol):
    """What every loss on rankings is called with."""

    def __call__(
        self,
        scores: Tensor,
        tiers: Tensor,
        mask: Tensor,
        ratings: Tensor | None = None,
        margin: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> Loss:
        """Sum over B prompts from [B, K] scores, tiers and mask of real answers."""


RANKING_LOSSES: Registry[RankingLoss] = Registry("ranking loss")


@RANKING_LOSSES.register("plackett_luce")
def plackett_luce(
    scores: Tensor,
    tiers: Tensor,
    mask: Tensor,
    ratings: Tensor | None = None,
    margin: float = 0.0,
    label_smoothing: float = 0.0,
) -> Loss:
    """Negative log-likelihood of tiers under the Plackett-Luce model; the order within a tier is not known.

    Equation: L = sum_prompts - sum_tiers log P(A before R), where A is a tier, R all worse answers, and
    P(A before R) = int_0^1 prod_{a in A} (1 - u^(exp(s_a) / sum_{r in R} exp(s_r))) du, the total probability
    of all orders of A in front of R (arXiv:2006.05067). Departures: the integral is taken over the whole line
    by the trapezoid rule (see `_log_tier_first`), and a tier of one answer uses the closed form, so that K =
    2 is exactly Bradley-Terry and a ranking without ties exactly the classic sum of log-softmax over the
    answers that remain.

    Args:
        scores: [B, K] scores, with gradient.
        tiers: [B, K] integers, 0 is best.
        mask: [B, K] true on real answers; what stands elsewhere has no effect, whatever it is.
        ratings: Not used: the model knows orders only.
        margin: Must be 0, since the model has no margin.
        label_smoothing: Must be 0, since the model has no pairs that could be turned round.

    Returns:
        The sum; divide by the number of prompts. A prompt whose answers share one tier adds 0. Metrics:
        `loss`, and `accuracy` and `margin` of `_pair_metrics`.

    Raises:
        ValueError: A margin or smoothing is asked for.

    Example:
        Three equal scores: the best of three is first with probability 1/3, the two others are tied.

        >>> tiers = torch.tensor([[0, 1, 1]])
        >>> loss = plackett_luce(torch.zeros(1, 3), tiers, torch.ones(1, 3, dtype=torch.bool))
        >>> round(float(loss.total.neg().exp()), 6)
        0.333333
    """
    if margin or label_smoothing:
        raise ValueError("plackett_luce has no margin and no label_smoothing; use bradley_terry")
    mask = mask.bool()
    scores = scores.masked_fill(~mask, 0.0)
    # The integral needs float64; the arrays are tiny beside one layer of the model.
    wide = scores.double()
    log_likelihood = wide.sum() * 0.0
    for tier in torch.unique(tiers[mask]).tolist():
        first = mask & (tiers == tier)
        rest = mask & (tiers > tier)
        rows = first.any(dim=1) & rest.any(dim=1)
        if rows.any():
            log_likelihood = log_likelihood + _log_tier_first(wide[rows], first[rows], rest[rows]).sum()
    total = -log_likelihood.to(scores.dtype)
    return Loss(total, {"loss": Metric(total, len(scores)), **_pair_metrics(scores, tiers, mask)})


def _log_tier_first(scores: Tensor, first: Tensor, rest: Tensor) -> Tensor:
    """Log-probability that all of `first` come before any of `rest`, [rows].

    With u = exp(-e^x) the integral becomes int exp(x - e^x) prod_a (1 - exp(-e^(x + d_a))) dx over the line,
    where d_a = s_a - log sum_r exp(s_r). Both tails fall off exponentially or faster and the integrand is
    analytic in the strip |Im x| < pi/2, so that the trapezoid rule converges exponentially; log-sum-exp keeps
    it stable. What lies below the lowest node is at most e^-18 of the whole for any scores, since the product
    only grows with x.
    """
    ahead = scores - torch.logsumexp(scores.masked_fill(~rest, -torch.inf), dim=1, keepdim=True)
    result = torch.where(first, F.logsigmoid(ahead), 0.0).sum(dim=1)
    tied = first.sum(dim=1) > 1
    if not tied.any():
        return result
    step = 0.125  # resolves the peak's width, 1 / sqrt(1 + size of the tier), up to 64 answers
    nodes = torch.arange(-18.0, 6.0, step, dtype=scores.dtype, device=scores.device)
    factors = _log_one_minus_exp_exp(ahead[tied].unsqueeze(-1) + nodes)
    log_integrand = nodes - nodes.exp() + torch.where(first[tied].unsqueeze(-1), factors, 0.0).sum(dim=1)
    integral = torch.logsumexp(log_integrand, dim=1) + math.log(step)
    return result.masked_scatter(tied, integral)


def _log_one_minus_exp_exp(y: Tensor) -> Tensor:
    """log(1 - exp(-e^y)), finite with finite gradients for any finite y."""
    # Below -30 it equals y, above 10 it equals 0, to the last bit of float64.
    inside = torch.log(-torch.expm1(-y.clamp(-30.0, 10.0).exp()))
    return torch.where(y < -30.0, y, inside)


@RANKING_LOSSES.register("bradley_terry")
def bradley_terry(
    scores: Tensor,
    tiers: Tensor,
    mask: Tensor,
    ratings: Tensor | None = None,
    margin: float = 0.0,
    label_smoothing: float = 0.0,
) -> Loss:
    """Logistic loss on all pairs of answers of a prompt that differ in tier.

    Equation: L = sum_prompts mean_pairs - (1 - e) log sigmoid(d) - e log sigmoid(-d) with
    d = s_i - s_j - m (q_i - q_j), over the pairs with i better than j. With e = 0 and m = 0 it is
    arXiv:2203.02155, Eq. 1; the margin grows with the difference of ratings q (arXiv:2307.09288, Eq. 2); e
    is the probability that a label is the wrong way round, so that a score difference has a finite optimum,
    log((1 - e) / e). Departures: the mean is over a prompt's pairs of different tiers, ties being left out,
    and the margin is linear in the ratings where Llama 2 has a table of four steps.

    Args:
        scores: [B, K] scores, with gradient.
        tiers: [B, K] integers, 0 is best.
        mask: [B, K] true on real answers; what stands elsewhere has no effect, whatever it is.
        ratings: [B, K] numbers, higher is better; needed for a margin. Rows without ratings hold equal
            numbers.
        margin: m of the equation, not negative.
        label_smoothing: e of the equation, 0 to below 1/2.

    Returns:
        The sum; divide by the number of prompts. A prompt without pairs adds 0. Metrics: `loss`, and
        `accuracy` and `margin` of `_pair_metrics`.

    Raises:
        ValueError: A margin without ratings.

    Example:
        >>> scores, tiers = torch.tensor([[1.0, 0.0, 3.0]]), torch.tensor([[0, 1, 1]])
        >>> loss = bradley_terry(scores, tiers, torch.ones(1, 3, dtype=torch.bool))
        >>> round(float(loss.total), 4)  # mean of -log sigmoid(1 - 0) and -log sigmoid(1 - 3)
        1.2201
    """
    mask = mask.bool()
    scores = scores.masked_fill(~mask, 0.0)
    ahead = _differences(scores)
    if margin:
        if ratings is None:
            raise ValueError("a margin needs ratings")
        ahead = ahead - margin * _differences(ratings.masked_fill(~mask, 0.0).to(scores.dtype))
    each = -(1 - label_smoothing) * F.logsigmoid(ahead) - label_smoothing * F.logsigmoid(-ahead)
    total = _mean_over_pairs(each, _better(tiers, mask)).sum()
    return Loss(total, {"loss": Metric(total, len(scores)), **_pair_metrics(scores, tiers, mask)})


def centring(scores: Tensor, mask: Tensor) -> Loss:
    """Squared mean score of a prompt's answers: fixes the constant that rankings leave open.

    Equation: L = sum_prompts (mean_k s_k)^2 (arXiv:2312.09244, Eq. 2). Departure: the mean where the paper
        has the sum
    of a pair, so that the strength does not grow with K; for K = 2 it is a quarter of the paper's.

    Args:
        scores: [B, K] scores, with gradient.
        mask: [B, K] true on real answers.

    Returns:
        The sum; divide by the number of prompts, and multiply by a weight. Metric: `centring`.

    Example:
        >>> scores = torch.tensor([[1.0, 3.0], [-1.0, 1.0]])
        >>> float(centring(scores, torch.ones(2, 2, dtype=torch.bool)).total)
        4.0
    """
    mask = mask.bool()
    means = scores.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    total = means.square().sum()
    return Loss(total, {"centring": Metric(total, len(scores))})


def _differences(x: Tensor) -> Tensor:
    """[B, K, K] of x_i - x_j."""
    return x.unsqueeze(2) - x.unsqueeze(1)


def _better(tiers: Tensor, mask: Tensor) -> Tensor:
    """[B, K, K], true where answer i is real and in a better tier than the real answer j."""
    return (tiers.unsqueeze(2) < tiers.unsqueeze(1)) & mask.unsqueeze(2) & mask.unsqueeze(1)


def _mean_over_pairs(x: Tensor, pairs: Tensor) -> Tensor:
    """[B] mean of x over each prompt's pairs; 0 for a prompt without any."""
    return x.masked_fill(~pairs, 0.0).sum(dim=(1, 2)) / pairs.sum(dim=(1, 2)).clamp(min=1)


def _pair_metrics(scores: Tensor, tiers: Tensor, mask: Tensor) -> dict[str, Metric]:
    """`accuracy` (pairs in the right order, equal scores count 1/2) and `margin` (better less worse).

    Both are means over a prompt's pairs, then over the prompts that have pairs.
    """
    scores, better = scores.detach(), _better(tiers, mask)
    ahead = _differences(scores)
    right = (ahead > 0).to(scores.dtype) + 0.5 * (ahead == 0).to(scores.dtype)
    prompts = better.any(dim=2).any(dim=1).sum()
    return {
        "accuracy": Metric(_mean_over_pairs(right, better).sum(), prompts),
        "margin": Metric(_mean_over_pairs(ahead, better).sum(), prompts),
    }
