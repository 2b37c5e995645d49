"""What `sft`, `reward` and `dpo` share: passes over fixed rows with the stage's objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from align.data.types import TokenRow
from align.stages.base import StageContext
from align.training.loop import train
from align.training.optim import Group
from align.training.supervised import Objective, SupervisedTask


def fit(
    ctx: StageContext[Any],
    model: nn.Module,
    groups: list[Group],
    rows: Sequence[TokenRow],
    objective: Objective,
    count: Callable[[Sequence[TokenRow]], float],
    shown: Mapping[str, str],
) -> int:
    """Train the model, resuming where a state was saved; it is in eval mode before and after.

    Args:
        ctx: Of a stage whose options have epochs, batch_size, micro_tokens and checkpoint_every.
        model: Put into training mode meanwhile.
        groups: What learns.
        rows: The training rows.
        objective: Sum of the loss over a micro-batch.
        count: What a step's summed loss is divided by, over all its rows.
        shown: Metric -> its short name on the progress line.

    Returns:
        The number of steps.
    """
    o = ctx.options
    task = SupervisedTask(
        groups, rows, o.epochs, o.batch_size, o.micro_tokens, ctx.seed, objective, count, shown
    )
    model.train()
    train(task, o, ctx.work, ctx.reporter, ctx.stop, seed=ctx.seed, every=o.checkpoint_every)
    model.eval()
    return task.total
