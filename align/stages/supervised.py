"""What `sft`, `reward`, `dpo` and `kto` share: passes over fixed rows with the stage's objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from align.data.tokenize import Tokenised
from align.data.types import TokenRow
from align.engine.batch import Budget, microbatches
from align.models.opened import OpenedModel
from align.models.reward_model import RewardModel
from align.objectives.reduce import Loss, Metric, merge
from align.stages import trl_engine
from align.stages.base import StageContext
from align.training.loop import train
from align.training.optim import Group
from align.training.supervised import Anchor, Objective, SupervisedTask, steps


def planned(ctx: StageContext[Any], train: Tokenised) -> int:
    """The number of steps over the training rows; what was cut or dropped of them is told.

    Raises:
        AlignError: What trains cannot take them.
    """
    for note in train.notes:
        ctx.reporter.note(note)
    if ctx.options.engine == "trl":
        trl_engine.check_rows(ctx, train.rows)
    return steps(len(train.rows), ctx.options.epochs, ctx.options.batch_size)


def fit(
    ctx: StageContext[Any],
    opened: OpenedModel,
    groups: list[Group],
    rows: Sequence[TokenRow],
    objective: Objective,
    count: Callable[[Sequence[TokenRow]], float],
    shown: Mapping[str, str],
    budget: Budget | None = None,
    anchor: Anchor | None = None,
) -> int:
    """Train the model, resuming where a state was saved; it is in eval mode before and after.

    With `engine=trl` the loss is that of TRL's trainer, and `objective`, `count` and `budget` are not used.

    Args:
        ctx: Of a stage whose options have epochs, batch_size, tokens_per_microbatch and checkpoint_every.
        opened: What learns and runs; put into training mode meanwhile.
        groups: What learns.
        rows: The training rows.
        objective: Sum of the loss over a micro-batch.
        count: What a step's summed loss is divided by, over all its rows.
        shown: Metric -> its short name on the progress line.
        budget: Of a micro-batch; default: that of the options.
        anchor: What the objective takes as given in a step, if anything.

    Returns:
        The number of steps.
    """
    o = ctx.options
    if o.engine == "trl":
        return trl_engine.fit(ctx, opened, groups, rows, shown)
    budget = budget or opened.budget(o.tokens_per_microbatch)
    task = SupervisedTask(
        groups, rows, o.epochs, o.batch_size, budget, ctx.seed, objective, count, shown, anchor or Anchor()
    )
    opened.model.train()
    train(task, o, ctx.work, ctx.reporter, ctx.stop, seed=ctx.seed, every=o.checkpoint_every)
    opened.model.eval()
    return task.total


@torch.no_grad()
def measure(
    rows: Sequence[TokenRow], budget: Budget, objective: Callable[..., Loss], together: int | None = None
) -> dict[str, float]:
    """Loss and metrics; `together` rows at a time where the loss compares rows with one another."""
    if not rows:
        return {"n": 0}
    parts: list[dict[str, Metric]] = []
    size = together or len(rows)
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        for group, batch in microbatches(some, budget):
            parts.append(objective(batch, [some[i] for i in group]).metrics)
    return {"n": len(rows), **merge(parts)}


def body_and_head(reward: RewardModel, lr: float, head_lr: float | None) -> list[Group]:
    """What learns in a reward model: the head at its own rate (default: `lr`), clipped with the rest."""
    trainable = reward.trainable()
    head = {n: p for n, p in trainable.items() if ".score." in f".{n}"}
    body = {n: p for n, p in trainable.items() if n not in head}
    return [Group("reward", body, lr), Group("head", head, head_lr or lr, clip_with="reward")]
