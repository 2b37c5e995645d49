"""Losses on pairs of answers that need no reward model: the DPO family."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from align.objectives.reduce import Loss, Metric
from align.registry import Registry


class PreferenceLoss(Protocol):
    """What every loss of this family is called with."""

    def __call__(
        self,
        policy_chosen: Tensor,
        policy_rejected: Tensor,
        ref_chosen: Tensor,
        ref_rejected: Tensor,
        beta: float,
        label_smoothing: float = 0.0,
    ) -> Loss:
        """Sum over P pairs from the summed log-probabilities of whole answers, [P] each."""


PREFERENCE_LOSSES: Registry[PreferenceLoss] = Registry("preference loss")


@PREFERENCE_LOSSES.register("sigmoid")
def dpo_sigmoid(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> Loss:
    """Direct preference optimisation with the logistic loss.

    Equation: with the implicit rewards r = beta (log pi(y|x) - log pi_ref(y|x)) and h = r_chosen -
        r_rejected,
    L = sum_pairs - log sigmoid(h) (arXiv:2305.18290, Eq. 7). With label smoothing e, for labels that are
    wrong with probability e: L = sum_pairs - (1 - e) log sigmoid(h) - e log sigmoid(-h) ("conservative DPO",
    E. Mitchell, https://ericmitchell.ai/cdpo.pdf). Departures: none.

    Args:
        policy_chosen: [P] log-probability of the whole chosen answer under the policy.
        policy_rejected: [P] of the rejected answer under the policy.
        ref_chosen: [P] of the chosen answer under the reference.
        ref_rejected: [P] of the rejected answer under the reference.
        beta: Strength of the pull to the reference, above 0.
        label_smoothing: Probability that a label is wrong, 0 to below 1/2.

    Returns:
        The sum; divide by the number of pairs. Metrics, under TRL's names: `loss`, `rewards/chosen`,
        `rewards/rejected`, `rewards/accuracies` (strictly greater, so 0 where policy and reference are
        equal), `rewards/margins`, `logps/chosen`, `logps/rejected`.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> loss = dpo_sigmoid(-2 * one, -5 * one, -3 * one, -4 * one, beta=0.5)
        >>> round(float(loss.total), 4), float(loss.metrics["rewards/margins"].total)  # -log sigmoid(0.5 * 2)
        (0.3133, 1.0)
    """
    chosen = beta * (policy_chosen - ref_chosen)
    rejected = beta * (policy_rejected - ref_rejected)
    margins = chosen - rejected
    losses = -(1 - label_smoothing) * F.logsigmoid(margins) - label_smoothing * F.logsigmoid(-margins)
    total = losses.sum()
    pairs = margins.numel()
    named = {
        "loss": losses,
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": (margins > 0).to(margins.dtype),
        "rewards/margins": margins,
        "logps/chosen": policy_chosen,
        "logps/rejected": policy_rejected,
    }
    return Loss(total, {name: Metric(value.sum(), pairs) for name, value in named.items()})
