"""Rewards, advantages and returns of sampled answers: the targets of policy and critic.

Rows are answers padded on the right: `mask` is true on the real tokens of an answer, which stand first in its
row. Everything here is a target, so nothing carries a gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Advantages(NamedTuple):
    """[S, T] `advantages` over the critic's guess, and [S, T] `returns`, the critic's targets."""

    advantages: Tensor
    returns: Tensor


def _is_prefix(mask: Tensor) -> bool:
    return not bool((mask[:, 1:] & ~mask[:, :-1]).any())


@torch.no_grad()
def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Reward of each token: a KL penalty on every token, the answer's score on its last one.

    Equation: R_t = - kl_coef kl_t + score [t is the last token] (arXiv:1909.08593, Eq. 2, spread over the
    tokens as in arXiv:2403.17031). Departures: none. The score of a row without any real token has no place
    and is left out.

    Args:
        scores: [S] score of each answer.
        kl: [S, T] per-token estimate of the divergence from the reference.
        mask: [S, T] true on real tokens.
        kl_coef: Weight of the penalty.

    Returns:
        [S, T] rewards, 0 on padding.

    Example:
        >>> kl = torch.tensor([[0.5, 1.0, 9.0]])
        >>> token_rewards(torch.tensor([2.0]), kl, torch.tensor([[True, True, False]]), kl_coef=0.25).tolist()
        [[-0.125, 1.75, 0.0]]
    """
    mask = mask.bool()
    rewards = (-kl_coef * kl).masked_fill(~mask, 0.0)
    rows = mask.any(dim=1).nonzero().squeeze(1)
    last = mask.sum(dim=1)[rows] - 1
    rewards[rows, last] += scores[rows].to(rewards.dtype)
    return rewards


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Advantages:
    """Generalised advantage estimation over the tokens of each answer.

    Equation: delta_t = r_t + gamma V_{t+1} - V_t; A_t = delta_t + gamma lam A_{t+1} (arXiv:1506.02438, Eq.
        16);
    returns R_t = A_t + V_t. Departure: the value after an answer's last token is 0 whether it ended by itself
    or was cut (as in arXiv:2403.17031): an answer cut at the token limit is final, since its score is all it
    will get.

    Args:
        rewards: [S, T] reward of each token.
        values: [S, T] critic's value of the state in which the token was chosen.
        mask: [S, T] true on real tokens, which stand first in each row.
        gamma: Discount, 1 for none.
        lam: 0 trusts the critic one step ahead, 1 uses the whole sampled return.

    Returns:
        Advantages and returns, both [S, T] and 0 on padding.

    Raises:
        ValueError: A row has padding before a real token.

    Example:
        With gamma = lam = 1 an advantage is the sum of the rewards to come, less the value.

        >>> rewards, values = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 0.5]])
        >>> result = gae(rewards, values, torch.ones(1, 2, dtype=torch.bool), gamma=1.0, lam=1.0)
        >>> result.advantages.tolist(), result.returns.tolist()
        ([[0.75, 0.5]], [[1.0, 1.0]])
    """
    mask = mask.bool()
    if not _is_prefix(mask):
        raise ValueError("the real tokens of a row must stand before its padding")
    rewards, values = rewards.masked_fill(~mask, 0.0), values.masked_fill(~mask, 0.0)
    advantages = torch.zeros_like(values)
    advantage = next_value = values.new_zeros(len(values))
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        # Padding carries delta 0, so the recursion reaches a row's last real token with nothing added.
        advantage = delta + gamma * lam * advantage
        next_value = values[:, t]
        advantages[:, t] = advantage
    return Advantages(advantages, advantages + values)


@torch.no_grad()
def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale to variance 1, and by default to mean 0, over the real tokens of all rows.

    Equation: (x - mean) / sqrt(var + 1e-8), with the variance of the population (divided by n) as in
    arXiv:2403.17031. Departure: moments in float64, so that equal numbers give exactly 0 after rounding.

    Args:
        x: [S, T] numbers.
        mask: [S, T] true on real tokens.
        shift_mean: Whether the mean is taken away; without, it stays as it was.

    Returns:
        [S, T], 0 on padding. Equal numbers become 0 (or stay), and nothing is NaN for one number or none.

    Example:
        >>> x = torch.tensor([[1.0, 3.0, 99.0]])
        >>> whiten(x, torch.tensor([[True, True, False]])).tolist()
        [[-1.0, 1.0, 0.0]]
    """
    mask = mask.bool()
    real = x[mask].double()
    if not real.numel():
        return torch.zeros_like(x)
    mean, variance = real.mean(), real.var(unbiased=False)
    white = (x.double() - mean) * torch.rsqrt(variance + 1e-8)
    if not shift_mean:
        white = white + mean
    return white.masked_fill(~mask, 0.0).to(x.dtype)
