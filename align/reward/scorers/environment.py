"""What an episode was worth to its environment."""

from __future__ import annotations

from align.config.rewards import EnvironmentReward
from align.reward.types import Answered, Scorer, one_by_one


def environment_scorer(_: EnvironmentReward) -> Scorer:
    """The environment's reward, which was asked for when the episode ended."""

    def earned(answer: Answered) -> float:
        assert answer.earned is not None, "a stage without episodes is refused"
        return answer.earned

    return one_by_one(earned)
