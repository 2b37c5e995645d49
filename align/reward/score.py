"""Scores from a reward model: batches in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.data.types import Response, TokenRow
from align.engine.batch import Budget, by_row
from align.models.reward_model import RewardModel
from align.reward.steps import score_steps


@torch.no_grad()
def score_rows(reward: RewardModel, rows: Sequence[TokenRow], budget: Budget) -> list[Tensor]:
    """Scores of each row's responses.

    Args:
        reward: The reward model. One that scores steps reads each response as text, cuts it at its separator
            and aggregates the values of the steps.
        rows: Prompts with K responses, each ending in EOS.
        budget: Of one forward.

    Returns:
        For each row a tensor [K].
    """
    if reward.steps is not None:
        return score_steps(reward, reward.steps, rows, budget)
    return by_row(rows, budget, reward.scores)


def answer_row(
    name: str, prompt: Sequence[int], answer: Sequence[int], eos: int, source: str = ""
) -> TokenRow:
    """A row for scoring one answer; EOS, where a reward is read, is put behind it where it was cut."""
    ids = tuple(answer) if answer and answer[-1] == eos else (*answer, eos)
    return TokenRow(name, tuple(prompt), (Response(ids, (1.0,) * len(ids)),), source=source)
