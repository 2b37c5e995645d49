"""Losses on the margin between a pair's answers: only the difference of the implicit rewards counts.

In the equations d = f'(chosen) - f'(rejected), where f' is the log-ratio to the reference or what another
divergence makes of it (`pairs.shaped`), and e is the label smoothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from align.objectives.pairs import PREFERENCE_LOSSES, Knobs, Pairs


def _smoothed(h: Tensor, e: float) -> Tensor:
    """Logistic loss of labels that are wrong with probability e."""
    return -(1 - e) * F.logsigmoid(h) - e * F.logsigmoid(-h)


@PREFERENCE_LOSSES.register("sigmoid")
def sigmoid(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Direct preference optimisation with the logistic loss.

    Equation: L = - log sigmoid(beta d) (arXiv:2305.18290, Eq. 7). With label smoothing e, for labels that are
    wrong with probability e: L = - (1 - e) log sigmoid(beta d) - e log sigmoid(- beta d) ("conservative DPO",
    E. Mitchell, https://ericmitchell.ai/cdpo.pdf). Departures: none.

    Args:
        pairs: P pairs with reference.
        knobs: Reads `beta`, `label_smoothing`, `divergence`, `alpha`.

    Returns:
        [P].

    Example:
        >>> one = torch.ones(1)
        >>> pairs = Pairs(-2 * one, -5 * one, one, one, ref_chosen=-3 * one, ref_rejected=-4 * one)
        >>> round(sigmoid(pairs, Knobs(beta=0.5)).item(), 4)  # -log sigmoid(0.5 * 2)
        0.3133
    """
    return _smoothed(knobs.beta * pairs.margin(knobs), knobs.label_smoothing)


@PREFERENCE_LOSSES.register("robust")
def robust(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Robust DPO: an unbiased estimate of the loss on clean labels where a share e of them is flipped.

    Equation: L = (- (1 - e) log sigmoid(beta d) + e log sigmoid(- beta d)) / (1 - 2 e) (arXiv:2403.00409).
    Departures: none. It falls without bound in both directions of d where e > 0.

    Args:
        pairs: P pairs with reference.
        knobs: Reads `beta`, `label_smoothing`, `divergence`, `alpha`.

    Returns:
        [P].
    """
    h, e = knobs.beta * pairs.margin(knobs), knobs.label_smoothing
    return (-(1 - e) * F.logsigmoid(h) + e * F.logsigmoid(-h)) / (1 - 2 * e)


@PREFERENCE_LOSSES.register("exo")
def exo(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Efficient exact optimisation on pairs: the reverse KL from the policy's preference to the labels'.

    Equation: with p = sigmoid(beta d), L = p log(p / (1 - e)) + (1 - p) log((1 - p) / e) (arXiv:2402.00856,
    Eq. 16 for K = 2). Departures: none.

    Args:
        pairs: P pairs with reference.
        knobs: Reads `beta`, `label_smoothing` (above 0, else L is infinite), `divergence`, `alpha`.

    Returns:
        [P], not negative.
    """
    h, e = knobs.beta * pairs.margin(knobs), knobs.label_smoothing
    right = torch.sigmoid(h) * (F.logsigmoid(h) - math.log1p(-e))
    return right + torch.sigmoid(-h) * (F.logsigmoid(-h) - math.log(e))


@PREFERENCE_LOSSES.register("hinge")
def hinge(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Hinge loss on the normalised likelihood, as in SLiC.

    Equation: L = max(0, 1 - beta d) (SLiC-HF, arXiv:2305.10425, with the log-ratio as calibrated score as in
    RSO, arXiv:2309.06657). Departure: no regulariser; add the loss `nll` for it.

    Args:
        pairs: P pairs with reference.
        knobs: Reads `beta`, `divergence`, `alpha`.

    Returns:
        [P], not negative.
    """
    return torch.relu(1 - knobs.beta * pairs.margin(knobs))


@PREFERENCE_LOSSES.register("ipo")
def ipo(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Identity preference optimisation: the margin is drawn to a target instead of to infinity.

    Equation: L = (d - 1 / (2 beta))^2 (arXiv:2310.12036, Eq. 17, where beta is called tau). Departure: each
    answer's term in d is divided by its number of tokens, as the authors' experiments do and TRL does; the
    paper's text does not say so.

    Args:
        pairs: P pairs with reference.
        knobs: Reads `beta`, `divergence`, `alpha`.

    Returns:
        [P], not negative.

    Example:
        >>> x = torch.tensor([-2.0, -8.0])
        >>> pairs = Pairs(x[:1], x[1:], torch.tensor([2.0]), torch.tensor([4.0]), 0 * x[:1], 0 * x[1:])
        >>> ipo(pairs, Knobs(beta=0.25)).item()  # (-1 + 2 - 2)^2
        1.0
    """
    return (pairs.mean_margin(knobs) - 1 / (2 * knobs.beta)).square()


@PREFERENCE_LOSSES.register("sigmoid_norm")
def sigmoid_norm(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Length-normalised DPO: the logistic loss on log-ratios per token.

    Equation: L = - log sigmoid(beta d), each answer's term in d divided by its number of tokens
    (arXiv:2411.15124, "length-normalized DPO"). Departures: none. beta is larger than for `sigmoid`, such as
    5.

    Args:
        pairs: P pairs with reference.
        knobs: Reads `beta`, `divergence`, `alpha`.

    Returns:
        [P].
    """
    return -F.logsigmoid(knobs.beta * pairs.mean_margin(knobs))


@PREFERENCE_LOSSES.register("discopop")
def discopop(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Log-ratio modulated loss, found by a language model's search.

    Equation: with h = beta d and m = sigmoid(h / tau), L = (1 - m) (- log sigmoid(h)) + m exp(-h)
    (arXiv:2406.08414, Eq. 5). Departures: none. The product m exp(-h) is taken in logarithms, so that it is
    finite for any h where tau <= 1.

    Args:
        pairs: P pairs with reference.
        knobs: Reads `beta`, `tau`, `divergence`, `alpha`.

    Returns:
        [P].
    """
    h = knobs.beta * pairs.margin(knobs)
    logistic = -F.logsigmoid(h) * torch.sigmoid(-h / knobs.tau)
    return logistic + torch.exp(F.logsigmoid(h / knobs.tau) - h)


@PREFERENCE_LOSSES.register("aot")
def aot(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Alignment by optimal transport, paired: the policy's margins dominate the reference's as distributions.

    Equation: with the margins log pi(chosen) - log pi(rejected) of all P pairs sorted, and those of the
    reference sorted too, L_i = - (1 - e) log sigmoid(beta d_i) - e log sigmoid(- beta d_i), where d_i is the
    difference of the i-th smallest (arXiv:2406.05882). Departures: the logistic loss of several that the
    paper allows.

    It needs all pairs of a step at once: sorting compares them, so that a cut into micro-batches would give
    another loss (`whole_batch` in `align/config/losses.py`).

    Args:
        pairs: P pairs with reference.
        knobs: Reads `beta`, `label_smoothing`.

    Returns:
        [P], by rank and not by pair.

    Example:
        >>> x, zero = torch.tensor([3.0, 1.0]), torch.zeros(2)
        >>> pairs = Pairs(x, zero, zero + 1, zero + 1, ref_chosen=torch.tensor([1.0, 3.0]), ref_rejected=zero)
        >>> aot(pairs, Knobs(beta=1.0)).tolist()  # sorted, both are 1 and 3
        [0.6931471824645996, 0.6931471824645996]
    """
    policy = (pairs.policy_chosen - pairs.policy_rejected).sort().values
    d = policy - pairs.ref_margin.sort().values
    return _smoothed(knobs.beta * d, knobs.label_smoothing)
