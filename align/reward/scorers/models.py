"""Scores of reward models: of one, or of several that may disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from align.config.rewards import EnsembleReward
from align.engine.batch import Budget
from align.models.reward_model import RewardModel
from align.reward.score import score_rows
from align.reward.types import Answered, Scorer, Scores, checked


def model_scorer(reward: RewardModel, budget: Budget) -> Scorer:
    """The scores of a reward model, read as `score_rows` reads it."""

    def scorer(answers: Sequence[Answered]) -> Scores:
        return Scores(torch.cat(score_rows(reward, [answer.row for answer in answers], budget)).cpu())

    return scorer


def ensemble_scorer(options: EnsembleReward, members: Mapping[str, Scorer]) -> Scorer:
    """One score of M members: their mean, their minimum, or mean - std_weight x std (arXiv:2310.02743).

    The std is that of the M scores themselves (divided by M). Parts: `mean`, `std` (the disagreement), and
    each member's score under its name.

    Args:
        options: How the scores are combined.
        members: Name -> scorer of each.
    """

    def scorer(answers: Sequence[Answered]) -> Scores:
        parts = {name: checked(member(answers), answers, name).values for name, member in members.items()}
        scores = torch.stack(list(parts.values()))  # [M, S]
        mean, std = scores.mean(0), scores.std(0, correction=0)
        combined = {
            "mean": mean,
            "min": scores.min(0).values,
            "mean_minus_std": mean - options.std_weight * std,
        }
        return Scores(combined[options.combine], {**parts, "mean": mean, "std": std})

    return scorer
