"""What every loss on pairs of answers reads: log-probs, knobs, and how they are made from tokens.

Shape legend: P pairs, C scored tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from align.config.losses import Divergence
from align.registry import Registry

STEEPEST = 20.0  # e^20 is far beyond what a policy near its reference reaches, and its square fits into fp32


@dataclass(frozen=True)
class Knobs:
    """Numbers of the losses; each docstring says which it reads. What is not given has no effect.

    Attributes:
        beta: Strength of the pull to the reference, or scale of the implicit reward; above 0.
        label_smoothing: Probability that a label is wrong, 0 to below 1/2.
        divergence: Holds the policy to the reference; see `shaped`.
        alpha: Of the divergence `alpha`, above 0 and below 1.
        tau: Temperature of the blend in `discopop`, above 0 to 1.
        gamma: Margin that `simpo` asks for, not negative.
    """

    beta: float
    label_smoothing: float = 0.0
    divergence: Divergence = "reverse_kl"
    alpha: float | None = None
    tau: float = 1.0
    gamma: float = 0.0


@dataclass(frozen=True)
class Pairs:
    """A better and a worse answer to each of P prompts.

    Attributes:
        policy_chosen: [P] log-prob of the whole better answer under the policy, with gradient.
        policy_rejected: [P] of the worse answer.
        chosen_tokens: [P] number of tokens in that sum, at least 1.
        rejected_tokens: [P] of the worse answer.
        ref_chosen: [P] of the better answer under the reference; None where no loss needs a reference.
        ref_rejected: [P] of the worse answer.
        weights: [P] how much each pair counts, without gradient; None where all count alike.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    ref_chosen: Tensor | None = None
    ref_rejected: Tensor | None = None
    weights: Tensor | None = None

    @property
    def chosen_ratio(self) -> Tensor:
        """[P] log pi(y|x) - log pi_ref(y|x) of the better answer."""
        return self.policy_chosen - _known(self.ref_chosen)

    @property
    def rejected_ratio(self) -> Tensor:
        """[P] log pi(y|x) - log pi_ref(y|x) of the worse answer."""
        return self.policy_rejected - _known(self.ref_rejected)

    @property
    def ref_margin(self) -> Tensor:
        """[P] log pi_ref of the better answer less that of the worse."""
        return _known(self.ref_chosen) - _known(self.ref_rejected)

    @property
    def chosen_mean(self) -> Tensor:
        """[P] mean log-prob of the better answer's tokens."""
        return self.policy_chosen / self.chosen_tokens

    @property
    def rejected_mean(self) -> Tensor:
        """[P] mean log-prob of the worse answer's tokens."""
        return self.policy_rejected / self.rejected_tokens

    def margin(self, knobs: Knobs) -> Tensor:
        """[P] f'(pi / pi_ref), or log-ratio, of the better answer less that of the worse."""
        return shaped(self.chosen_ratio, knobs) - shaped(self.rejected_ratio, knobs)

    def mean_margin(self, knobs: Knobs) -> Tensor:
        """[P] the same, each answer's term divided by its number of tokens."""
        chosen = shaped(self.chosen_ratio, knobs) / self.chosen_tokens
        return chosen - shaped(self.rejected_ratio, knobs) / self.rejected_tokens


class PairLoss(Protocol):
    """What every loss on pairs is called with."""

    def __call__(self, pairs: Pairs, knobs: Knobs) -> Tensor:
        """[P] loss of each pair."""


PREFERENCE_LOSSES: Registry[PairLoss] = Registry("preference loss")


def shaped(ratio: Tensor, knobs: Knobs) -> Tensor:
    """What a divergence makes of log-ratios: the reward of f-divergence DPO is beta f'(pi / pi_ref).

    Equation: with u = exp(ratio), f'(u) is
        reverse_kl  log u
        forward_kl  1 - 1/u
        js          log(2u / (1 + u))
        alpha       (1 - u^-a) / a, which tends to the reverse KL for a -> 0 and is the forward KL for a = 1
    (arXiv:2309.16240). Departures: constants that cancel in a difference are chosen so that f'(1) = 0; and
    where a log u is below -20, the exponential goes on as a straight line, so that neither it nor its
    gradient overflows and the gradient never vanishes.

    Args:
        ratio: Log-ratios of any shape.
        knobs: Reads `divergence` and `alpha`.

    Returns:
        The same shape.

    Example:
        >>> x = torch.tensor([math.log(4.0)])
        >>> round(shaped(x, Knobs(0.1, divergence="forward_kl")).item(), 6)  # 1 - 1/4
        0.75
        >>> round(shaped(x, Knobs(0.1, divergence="js")).item(), 6)  # log(8 / 5)
        0.470004
    """
    if knobs.divergence == "reverse_kl":
        return ratio
    if knobs.divergence == "js":
        return math.log(2) + F.logsigmoid(ratio)
    power = 1.0 if knobs.divergence == "forward_kl" else knobs.alpha
    if power is None:
        raise ValueError("the divergence alpha needs a number alpha")
    exponent = -power * ratio
    inside = torch.expm1(exponent.clamp(max=STEEPEST))
    beyond = math.exp(STEEPEST) * (exponent - STEEPEST).clamp(min=0.0)
    return -(inside + beyond) / power


def length_desensitised(tokens: Tensor, alpha: float) -> Tensor:
    """Weights of tokens by which the longer answer of a pair counts less for its length.

    Equation: log pi(y|x) becomes sum_{i <= l} log p_i + alpha sum_{i > l} log p_i, where l is the length of
    the shorter answer of the pair; so for policy and reference (LD-DPO, arXiv:2409.06411). 1 is plain DPO, 0
    cuts both answers to the same length. Departures: none.

    Args:
        tokens: [P, 2] number of scored tokens of each pair's answers.
        alpha: Weight of the tokens behind the shared length, 0 to 1.

    Returns:
        [C] weights, answer by answer in the order of `tokens`.

    Example:
        >>> length_desensitised(torch.tensor([[3, 1]]), 0.5).tolist()
        [1.0, 0.5, 0.5, 1.0]
    """
    own = tokens.flatten()
    shared = tokens.amin(dim=1).repeat_interleave(2)
    starts = own.cumsum(0) - own
    place = torch.arange(int(own.sum()), device=own.device) - starts.repeat_interleave(own)
    weights = torch.full(place.shape, alpha, dtype=torch.float32, device=own.device)
    return weights.masked_fill(place < shared.repeat_interleave(own), 1.0)


def on_policy(logps: Tensor, log_squares: Tensor, scored_in: Tensor, tokens: Tensor) -> Tensor:
    """Weight of each pair: how likely both of its answers are to be drawn from the policy of now.

    Equation: w(x, y) = exp(1/|y| sum_t (log pi(y_t) - log sum_v pi(v)^2)), of a pair w(x, chosen) w(x,
    rejected), without gradient (WPO, arXiv:2406.11827, with sampled alignment: a token as likely as an
    average draw counts 1). Departures: none; like TRL's `use_weighting`, weights above 1 are not cut.

    Args:
        logps: [C] log-probs of the scored tokens under the policy.
        log_squares: [C] log of the sum of the squared probabilities of each token's distribution.
        scored_in: [C] answer that each token belongs to, in pairs: 2p is chosen, 2p + 1 rejected.
        tokens: [2P] number of scored tokens of each answer.

    Returns:
        [P] weights above 0, detached.

    Example:
        A coin of p = 3/4 and 1/4: an average draw has sum p^2 = 5/8. Chosen is the likely side, rejected the
        other: 6/5 x 2/5.

        >>> x, squares = torch.tensor([0.75, 0.25]).log(), torch.tensor([0.625, 0.625]).log()
        >>> round(on_policy(x, squares, torch.tensor([0, 1]), torch.tensor([1, 1])).item(), 4)
        0.48
    """
    apart = (logps - log_squares).detach()
    means = apart.new_zeros(len(tokens)).index_add(0, scored_in, apart) / tokens
    return means.view(-1, 2).sum(dim=1).exp()


def _known(ref: Tensor | None) -> Tensor:
    if ref is None:
        raise ValueError("this loss compares with a reference; give ref_chosen and ref_rejected")
    return ref
