"""Losses that look at each answer of a pair by itself: the better one is raised, the worse one lowered.

In the equations c and r are the log-ratios log pi(y|x) - log pi_ref(y|x) of the chosen and the rejected
answer. All read `beta` alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from align.objectives.pairs import PREFERENCE_LOSSES, Knobs, Pairs


@PREFERENCE_LOSSES.register("nca")
def nca(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Noise contrastive alignment on pairs: holds the better answer's likelihood up, not the margin alone.

    Equation: L = - log sigmoid(beta c) - 1/2 log sigmoid(- beta c) - 1/2 log sigmoid(- beta r)
    (arXiv:2402.05369, the pairwise case of NCA). Departures: none.

    Args:
        pairs: P pairs with reference.
        knobs: Reads `beta`.

    Returns:
        [P], above 0; 2 ln 2 where policy and reference are equal.
    """
    chosen, rejected = knobs.beta * pairs.chosen_ratio, knobs.beta * pairs.rejected_ratio
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


@PREFERENCE_LOSSES.register("bco")
def bco(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Binary classifier optimisation on pairs: is an answer a chosen one?

    Equation: L = - log sigmoid(beta c) - log sigmoid(- beta r) (arXiv:2404.04656). Departure: no reward
    shift, which needs a mean over many answers; `unpaired.bco` takes one.

    Args:
        pairs: P pairs with reference.
        knobs: Reads `beta`.

    Returns:
        [P], above 0.

    Example:
        >>> one = torch.ones(1)
        >>> pairs = Pairs(-2 * one, -5 * one, one, one, ref_chosen=-3 * one, ref_rejected=-4 * one)
        >>> round(bco(pairs, Knobs(beta=1.0)).item(), 4)  # twice -log sigmoid(1)
        0.6265
    """
    chosen, rejected = knobs.beta * pairs.chosen_ratio, knobs.beta * pairs.rejected_ratio
    return -F.logsigmoid(chosen) - F.logsigmoid(-rejected)


@PREFERENCE_LOSSES.register("sppo")
def sppo(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Self-play preference optimisation with hard labels: each log-ratio is drawn to a target.

    Equation: L = (c - 1/(2 beta))^2 + (r + 1/(2 beta))^2 (arXiv:2405.00675, Eq. 4.7 with win probabilities 1
    and 0, and 1/beta for its eta). Departures: hard labels where the paper estimates probabilities with a
    preference model.

    Args:
        pairs: P pairs with reference.
        knobs: Reads `beta`.

    Returns:
        [P], not negative.

    Example:
        >>> one = torch.ones(1)
        >>> pairs = Pairs(-2 * one, -5 * one, one, one, ref_chosen=-3 * one, ref_rejected=-4 * one)
        >>> sppo(pairs, Knobs(beta=0.25)).item()  # (1 - 2)^2 + (-1 + 2)^2
        2.0
    """
    target = 1 / (2 * knobs.beta)
    return (pairs.chosen_ratio - target).square() + (pairs.rejected_ratio + target).square()


@PREFERENCE_LOSSES.register("apo_zero")
def apo_zero(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Anchored preference optimisation for chosen answers that are better than the policy's own.

    Equation: L = 1 - sigmoid(beta c) + sigmoid(beta r) (arXiv:2408.06266, Eq. 7). Departures: none. The
    chosen answer's likelihood rises and the rejected one's falls, both with the reference as anchor.

    Args:
        pairs: P pairs with reference.
        knobs: Reads `beta`.

    Returns:
        [P], 0 to 2.
    """
    return torch.sigmoid(-knobs.beta * pairs.chosen_ratio) + torch.sigmoid(knobs.beta * pairs.rejected_ratio)


@PREFERENCE_LOSSES.register("apo_down")
def apo_down(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Anchored preference optimisation for chosen answers that are worse than the policy's own.

    Equation: L = sigmoid(beta c) + 1 - sigmoid(beta (c - r)) (arXiv:2408.06266, Eq. 8). Departures: none.
    Both likelihoods fall, the rejected one's further.

    Args:
        pairs: P pairs with reference.
        knobs: Reads `beta`.

    Returns:
        [P], 0 to 2.
    """
    apart = pairs.chosen_ratio - pairs.rejected_ratio
    return torch.sigmoid(knobs.beta * pairs.chosen_ratio) + torch.sigmoid(-knobs.beta * apart)
