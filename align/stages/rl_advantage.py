"""Which targets the policy learns from, by the name of the advantage in the recipe.

Legend: P prompts with K answers each, S = P K answers, T tokens of the longest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from align.config.rl_options import RlOptions
from align.objectives.advantage import Advantages, gae, token_rewards, whiten
from align.objectives.group_advantage import best_of_group, group_normalised, leave_one_out, to_go


@dataclass(frozen=True)
class Earned:
    """What the answers of a round earned.

    Attributes:
        scores: [S] scaled scores, penalties taken off.
        kl: [S, T] per-token estimate of the divergence that is charged to the reward; zeros where it is not.
        kl_coef: Its coefficient.
        mask: [S, T] true on real tokens.
        values: [S, T] of the critic, with `gae`.
        greedy: [P] scores of the greedy answers, with `remax`.
    """

    scores: Tensor
    kl: Tensor
    kl_coef: float
    mask: Tensor
    values: Tensor | None = None
    greedy: Tensor | None = None

    @property
    def per_token(self) -> Tensor:
        """[S, T] rewards: the penalty on every token, the score on the last."""
        return token_rewards(self.scores, self.kl, self.mask, self.kl_coef)


def advantages(o: RlOptions, earned: Earned) -> Advantages:
    """[S, T] advantages, and with `gae` the critic's targets (zeros else).

    Methods that compare whole answers charge the sum of an answer's penalties to its reward, and give each of
    its tokens the same advantage.
    """
    mask = earned.mask
    if o.advantage == "gae":
        assert earned.values is not None, "a critic has valued the answers"
        found = gae(earned.per_token, earned.values, mask, o.gamma, o.lam)
    elif o.advantage in ("reinforce_pp", "remax"):
        returns = to_go(earned.per_token, mask, o.gamma)
        if earned.greedy is not None:
            returns = returns - earned.greedy.repeat_interleave(o.samples_per_prompt)[:, None]
        found = Advantages(returns * mask, torch.zeros_like(returns))
    else:
        spread = _of_groups(o, earned).flatten()[:, None] * mask
        found = Advantages(spread, torch.zeros_like(spread))
    return Advantages(whiten(found.advantages, mask), found.returns) if o.whitens else found


def _of_groups(o: RlOptions, earned: Earned) -> Tensor:
    """[P, K] one number per answer."""
    rewards = earned.per_token.sum(1).view(-1, o.samples_per_prompt)
    if o.advantage == "rloo":
        return leave_one_out(rewards)
    if o.advantage == "best_of_n":
        return best_of_group(rewards)
    # Subtracting the group's mean is all that REINFORCE++ with a baseline does before whitening.
    return group_normalised(rewards, divide=o.advantage == "grpo")
