"""Scores of the user's own function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from align.config.rewards import FunctionReward
from align.errors import NumericsError
from align.reward import functions
from align.reward.types import Answered, Scorer, Scores


def function_scorer(options: FunctionReward) -> Scorer:
    """The numbers that `def name(answers: Sequence[Answered])` returns, one for each answer.

    Raises:
        ConfigError: There is no such function.
    """
    where = f"function {options.name}"
    function = functions.find(options.name, where)

    def scorer(answers: Sequence[Answered]) -> Scores:
        return Scores(_as_tensor(function(answers), where))

    return scorer


def _as_tensor(returned: Any, where: str) -> torch.Tensor:
    """Numbers as a float tensor on the CPU; None stands for NaN, which is refused with its row."""
    if isinstance(returned, torch.Tensor):
        return returned.detach().cpu().float()
    try:
        numbers = [float("nan") if one is None else float(one) for one in returned]
    except (TypeError, ValueError) as error:
        what = f"returned {type(returned).__name__}, not numbers: {error}"
        raise NumericsError(where, what, "return a list of one number for each answer") from None
    return torch.tensor(numbers)
