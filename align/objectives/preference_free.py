"""Losses on pairs that need no reference.

In the equations C and R are the log-probs of the chosen and the rejected answer under the policy, and |y| is
the number of tokens of an answer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from align.objectives.pairs import PREFERENCE_LOSSES, Knobs, Pairs

CERTAIN = -1e-6  # mean log-prob from which on an answer counts as certain: its odds stay finite


@PREFERENCE_LOSSES.register("nll")
def nll(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Length-normalised negative log-likelihood of the chosen answer, to be added to another loss.

    Equation: L = - C / |chosen| (the second term of arXiv:2404.19733, Eq. 1, "RPO" in TRL). Departures: the
    length is that of the answer, without the prompt.

    Args:
        pairs: P pairs; no reference is read.
        knobs: None is read.

    Returns:
        [P], not negative.
    """
    return -pairs.chosen_mean


@PREFERENCE_LOSSES.register("cpo")
def cpo(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Contrastive preference optimisation: DPO with a uniform reference, and the chosen answer imitated.

    Equation: L = - log sigmoid(beta (C - R)) - C / |chosen| (arXiv:2401.08417). Departure: the
    likelihood term is a mean over the answer's tokens, so that its weight does not grow with the length.

    Args:
        pairs: P pairs; no reference is read.
        knobs: Reads `beta`.

    Returns:
        [P], not negative.
    """
    apart = pairs.policy_chosen - pairs.policy_rejected
    return -F.logsigmoid(knobs.beta * apart) - pairs.chosen_mean


@PREFERENCE_LOSSES.register("simpo")
def simpo(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Simple preference optimisation: the reward is what ranks answers in sampling, the mean log-prob.

    Equation: L = - log sigmoid(beta C / |chosen| - beta R / |rejected| - gamma) (arXiv:2405.14734, Eq. 6).
    Departures: none. beta is 2 to 10 in the paper, gamma about half of it.

    Args:
        pairs: P pairs; no reference is read.
        knobs: Reads `beta` and `gamma`.

    Returns:
        [P], above 0.

    Example:
        >>> x = torch.tensor([-2.0, -8.0])
        >>> pairs = Pairs(x[:1], x[1:], torch.tensor([2.0]), torch.tensor([4.0]))
        >>> round(simpo(pairs, Knobs(beta=2.0, gamma=1.0)).item(), 4)  # -log sigmoid(2 (-1 + 2) - 1)
        0.3133
    """
    return -F.logsigmoid(knobs.beta * (pairs.chosen_mean - pairs.rejected_mean) - knobs.gamma)


@PREFERENCE_LOSSES.register("orpo")
def orpo(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Odds-ratio preference optimisation: imitation of the chosen answer and a penalty, in one stage.

    Equation: with the geometric mean p of an answer's token probabilities and odds = p / (1 - p),
    L = - C / |chosen| - beta log sigmoid(log (odds(chosen) / odds(rejected))) (arXiv:2403.07691, Eq. 6 and 7,
    where beta is called lambda). Departure: a mean log-prob counts as at most -1e-6, or the odds of a
    certain answer would be infinite.

    Args:
        pairs: P pairs; no reference is read.
        knobs: Reads `beta`.

    Returns:
        [P], not negative.

    Example:
        >>> x = torch.tensor([0.5, 0.2]).log()
        >>> pairs = Pairs(x[:1], x[1:], torch.ones(1), torch.ones(1))
        >>> round(orpo(pairs, Knobs(beta=1.0)).item(), 4)  # ln 2 + log(1 + 1/4): odds 1 and 1/4
        0.9163
    """
    ratio = _log_odds(pairs.chosen_mean) - _log_odds(pairs.rejected_mean)
    return -pairs.chosen_mean - knobs.beta * F.logsigmoid(ratio)


def _log_odds(mean: Tensor) -> Tensor:
    """log(p / (1 - p)) of probabilities with the logarithm `mean`."""
    mean = mean.clamp(max=CERTAIN)
    return mean - torch.log(-torch.expm1(mean))
