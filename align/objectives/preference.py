"""The losses of preferences, on pairs and on whole rankings: several, weighted, become one `Loss`.

The losses on pairs stand in `preference_margin` (the difference of the implicit rewards), in
`preference_pointwise` (each answer by itself) and in `preference_free` (without a reference); this module
fills `PREFERENCE_LOSSES` with all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from align.config.losses import LOSSES
from align.objectives import preference_free, preference_margin, preference_pointwise
from align.objectives.pairs import PREFERENCE_LOSSES, Knobs, Pairs
from align.objectives.ranking import RANKING_LOSSES
from align.objectives.reduce import Loss, Metric

FAMILIES = (preference_margin, preference_pointwise, preference_free)


def preference_loss(pairs: Pairs, weights: Mapping[str, float], knobs: Knobs) -> Loss:
    """Weighted sum of losses on pairs.

    Equation: L = sum_pairs w_pair sum_losses weight x loss, w_pair being 1 where `pairs` has no weights.

    Args:
        pairs: P pairs; the reference may be missing where no loss needs it.
        weights: Name in `PREFERENCE_LOSSES` -> weight.
        knobs: Of all losses together.

    Returns:
        The sum; divide by the number of pairs. Metrics, under TRL's names: `loss` (and `loss/<name>` of each,
        without any weight, where there are several), `weights` of the pairs where they have some,
        `rewards/chosen`, `rewards/rejected`, `rewards/accuracies` (strictly greater, so 0 where policy and
        reference are equal),
        `rewards/margins`, `logps/chosen`, `logps/rejected` (of whole answers). The implicit reward is beta
        times the log-ratio, whatever the divergence. Without a reference it is beta times the log-prob, per
        token with `simpo` and `orpo`.

    Raises:
        ConfigError: There is no such loss.

    Example:
        >>> one = torch.ones(1)
        >>> pairs = Pairs(-2 * one, -5 * one, one, one, ref_chosen=-3 * one, ref_rejected=-4 * one)
        >>> loss = preference_loss(pairs, {"sigmoid": 1.0, "nll": 0.5}, Knobs(beta=0.5))
        >>> round(float(loss.total), 4), float(loss.metrics["rewards/margins"].total)  # 0.3133 + 2 / 2
        (1.3133, 1.0)
    """
    losses = {name: PREFERENCE_LOSSES.get(name)(pairs, knobs) for name in weights}
    together = torch.stack([weight * losses[name] for name, weight in weights.items()]).sum(dim=0)
    if pairs.weights is not None:
        together = pairs.weights * together
    chosen, rejected = _rewards(pairs, weights, knobs.beta)
    named = {
        "loss": together,
        **({f"loss/{name}": each for name, each in losses.items()} if len(losses) > 1 else {}),
        **({} if pairs.weights is None else {"weights": pairs.weights}),
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": (chosen > rejected).to(chosen.dtype),
        "rewards/margins": chosen - rejected,
        "logps/chosen": pairs.policy_chosen,
        "logps/rejected": pairs.policy_rejected,
    }
    count = chosen.numel()
    return Loss(together.sum(), {name: Metric(value.sum(), count) for name, value in named.items()})


def _rewards(pairs: Pairs, names: Mapping[str, float], beta: float) -> tuple[Tensor, Tensor]:
    """[P] implicit rewards of the chosen and the rejected answers."""
    if pairs.ref_chosen is not None:
        return beta * pairs.chosen_ratio, beta * pairs.rejected_ratio
    if any(LOSSES[name].per_token for name in names):
        return beta * pairs.chosen_mean, beta * pairs.rejected_mean
    return beta * pairs.policy_chosen, beta * pairs.policy_rejected


def listwise_loss(
    policy: Tensor, ref: Tensor, tiers: Tensor, mask: Tensor, weights: Mapping[str, float], beta: float
) -> Loss:
    """DPO on whole rankings: the implicit rewards of K answers take the place of a reward model's scores.

    Equation: with s_k = beta (log pi(y_k|x) - log pi_ref(y_k|x)), L = sum_prompts sum_losses weight x loss(s,
    tiers), the loss being that of Plackett-Luce (arXiv:2305.18290, Appendix A.3) or of all pairs under
    Bradley-Terry. Departure: tiers may be shared; see `ranking.plackett_luce`. For K = 2 either is `sigmoid`.

    Args:
        policy: [B, K] log-probs of whole answers under the policy, with gradient.
        ref: [B, K] under the reference.
        tiers: [B, K] integers, 0 is best.
        mask: [B, K] true on real answers; what stands elsewhere must be finite and has no effect.
        weights: Name in `RANKING_LOSSES` -> weight.
        beta: Strength of the pull to the reference, above 0.

    Returns:
        The sum; divide by the number of prompts. Metrics: `loss` (and `loss/<name>` of each, without its
        weight, where there are several); `rewards/accuracies` (equal rewards count 1/2) and
        `rewards/margins`, means over a prompt's pairs of different tiers; `logps/best` and `logps/worst`,
        means over the answers of the best and of the worst tier.

    Example:
        >>> policy, tiers = torch.tensor([[-2.0, -3.0, -4.0]]), torch.tensor([[0, 1, 1]])
        >>> mask = torch.ones(1, 3, dtype=torch.bool)
        >>> loss = listwise_loss(policy, policy, tiers, mask, {"plackett_luce": 1.0}, beta=0.1)
        >>> round(float(loss.total.neg().exp()), 6)  # at the reference the best is first by chance
        0.333333
    """
    rewards = beta * (policy - ref)
    losses = {name: RANKING_LOSSES.get(name)(rewards, tiers, mask) for name in weights}
    together = torch.stack([weight * losses[name].total for name, weight in weights.items()]).sum()
    of_pairs = next(iter(losses.values())).metrics
    parts = {f"loss/{name}": each.metrics["loss"] for name, each in losses.items()} if len(losses) > 1 else {}
    worst = tiers.masked_fill(~mask, -1).amax(dim=1, keepdim=True)
    best = tiers.masked_fill(~mask, torch.iinfo(tiers.dtype).max).amin(dim=1, keepdim=True)
    metrics = {
        "loss": Metric(together, len(policy)),
        **parts,
        "rewards/accuracies": of_pairs["accuracy"],
        "rewards/margins": of_pairs["margin"],
        "logps/best": _mean_of(policy, mask & (tiers == best)),
        "logps/worst": _mean_of(policy, mask & (tiers == worst)),
    }
    return Loss(together, metrics)


def _mean_of(logps: Tensor, where: Tensor) -> Metric:
    """Mean over a prompt's answers, then over the prompts."""
    means = logps.masked_fill(~where, 0.0).sum(dim=1) / where.sum(dim=1).clamp(min=1)
    return Metric(means.sum(), len(logps))
