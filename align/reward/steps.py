"""One number for an answer from the scores of its steps, as a process reward model gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from align.data.tokenize import step_response
from align.data.types import Response, TokenRow
from align.engine.batch import Budget, microbatches
from align.models.reward_model import RewardModel, Steps
from align.registry import Registry

AGGREGATES: Registry[Callable[[Tensor], Tensor]] = Registry("aggregate")
AGGREGATES.register("min")(lambda values: values.min())
AGGREGATES.register("last")(lambda values: values[-1])
AGGREGATES.register("mean")(lambda values: values.mean())
AGGREGATES.register("product")(lambda values: values.prod())


def values_of(scores: Tensor, steps: Steps) -> Tensor:
    """[C] what a model says of steps: probabilities of being right, or values as they are."""
    return scores.sigmoid() if steps.loss == "bce" else scores


@torch.no_grad()
def step_values(
    reward: RewardModel, steps: Steps, rows: Sequence[TokenRow], budget: Budget
) -> list[list[Tensor]]:
    """What the model says of each step of each response.

    Args:
        reward: Scores steps.
        steps: How it is read.
        rows: Prompts with K responses made by `step_response`.
        budget: Of one forward.

    Returns:
        For each row K tensors, one value per step.
    """
    found: list[list[Tensor]] = [[]] * len(rows)
    for group, batch in microbatches(rows, budget):
        counts = torch.bincount(batch.scored_in, minlength=batch.sequences).tolist()
        parts = iter(values_of(reward.step_scores(batch), steps).split(counts))
        for i in group:
            found[i] = [next(parts) for _ in rows[i].responses]
    return found


def score_steps(reward: RewardModel, steps: Steps, rows: Sequence[TokenRow], budget: Budget) -> list[Tensor]:
    """For each row a tensor [K]: the aggregate over the steps of each response, however it was tokenised."""
    read = [
        replace(row, responses=tuple(_in_steps(reward, steps, response) for response in row.responses))
        for row in rows
    ]
    aggregate = AGGREGATES.get(steps.aggregate)
    return [
        torch.stack([aggregate(values) for values in row]) for row in step_values(reward, steps, read, budget)
    ]


def _in_steps(reward: RewardModel, steps: Steps, response: Response) -> Response:
    """The same answer as training would have tokenised it; an empty one is one empty step."""
    template = reward.template
    ids = response.ids[:-1] if response.ids[-1] == template.eos_id else response.ids
    parts = [part for part in template.decode(list(ids)).split(steps.separator) if part.strip()]
    return step_response(template.encode_steps(parts or [""], steps.separator), template.eos_id)
