"""Advantages without a critic: an answer is measured against the other answers to its prompt.

Legend: P prompts with K answers each, S answers, T tokens of the longest. Everything here is a target, so
nothing carries a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-4  # added to a group's std, as TRL 1.16 does


@torch.no_grad()
def group_normalised(rewards: Tensor, divide: bool = True) -> Tensor:
    """Reward over the group's mean, in units of the group's std.

    Equation: A_i = (r_i - mean(r)) / (std(r) + 1e-4) (GRPO, arXiv:2402.03300, section 4.1.2; the std of a
    sample, divided by K - 1). Without `divide` the std stays out (Dr. GRPO, arXiv:2503.20783: dividing weighs
    questions that are almost always or almost never answered more than others). Departures: none.

    Args:
        rewards: [P, K] one group a row, K at least 2.
        divide: Whether to divide by the std.

    Returns:
        [P, K]; 0 where all answers of a group have the same reward.

    Raises:
        ValueError: Groups of one answer.

    Example:
        >>> [round(x, 3) for x in group_normalised(torch.tensor([[0.0, 1.0, 2.0]]))[0].tolist()]
        [-1.0, 0.0, 1.0]
        >>> group_normalised(torch.tensor([[0.0, 1.0, 5.0]]), divide=False).tolist()
        [[-2.0, -1.0, 3.0]]
    """
    _check_group(rewards)
    apart = rewards - rewards.mean(1, keepdim=True)
    return apart / (rewards.std(1, keepdim=True) + TINY) if divide else apart


@torch.no_grad()
def leave_one_out(rewards: Tensor) -> Tensor:
    """Reward over the mean of the others of the group.

    Equation: A_i = r_i - (1 / (K - 1)) sum_{j != i} r_j (RLOO, arXiv:2402.14740). With K = 2 it is
    the difference of the two rewards. Departures: none.

    Args:
        rewards: [P, K] one group a row, K at least 2.

    Returns:
        [P, K].

    Raises:
        ValueError: Groups of one answer.

    Example:
        >>> leave_one_out(torch.tensor([[1.0, 2.0, 6.0]])).tolist()
        [[-3.0, -1.5, 4.5]]
    """
    _check_group(rewards)
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


@torch.no_grad()
def best_of_group(rewards: Tensor) -> Tensor:
    """1 for the best answer of each group, 0 for the rest: only the best is imitated.

    Equation: A_i = [r_i = max r] / #{j: r_j = max r}: the gradient is that of the log-likelihood of the
    answer that best-of-n would have chosen, as in RAFT (arXiv:2304.06767). Departure: equal best answers
    share the weight; a group in which all are equal teaches nothing and gets 0.

    Args:
        rewards: [P, K] one group a row, K at least 2.

    Returns:
        [P, K]; rows sum to 1, or to 0 where all are equal.

    Raises:
        ValueError: Groups of one answer.

    Example:
        >>> best_of_group(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])).tolist()
        [[0.0, 0.5, 0.5], [0.0, 0.0, 0.0]]
    """
    _check_group(rewards)
    best = (rewards == rewards.amax(1, keepdim=True)).to(rewards.dtype)
    differ = (rewards.amax(1, keepdim=True) > rewards.amin(1, keepdim=True)).to(rewards.dtype)
    return best / best.sum(1, keepdim=True) * differ


@torch.no_grad()
def to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Discounted sum of the rewards from each token on.

    Equation: G_t = sum_{u >= t} gamma^(u - t) r_u (the return of REINFORCE, Williams 1992; with the score
    at the last token and a KL penalty on every token the return of REINFORCE++, arXiv:2501.03262).
    Departures: none.

    Args:
        rewards: [S, T] reward of each token.
        mask: [S, T] true on real tokens.
        gamma: Discount, 1 for none.

    Returns:
        [S, T], 0 on padding.

    Example:
        >>> to_go(torch.tensor([[1.0, 0.0, 4.0]]), torch.ones(1, 3).bool(), gamma=0.5).tolist()
        [[2.0, 2.0, 4.0]]
    """
    mask = mask.bool()
    rewards = rewards.masked_fill(~mask, 0.0)
    found = torch.zeros_like(rewards)
    rest = rewards.new_zeros(len(rewards))
    for t in range(rewards.shape[1] - 1, -1, -1):
        rest = rewards[:, t] + gamma * rest
        found[:, t] = rest
    return found.masked_fill(~mask, 0.0)


def _check_group(rewards: Tensor) -> None:
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards of shape {tuple(rewards.shape)} hold no groups of two and more answers")
