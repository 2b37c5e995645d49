"""The task of every stage that passes over fixed rows: epochs, batches, and an objective per micro-batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from align.data.order import epoch_order
from align.data.types import TokenRow
from align.engine.batch import Budget, TokenBatch, microbatches
from align.objectives.reduce import Loss
from align.training.loop import Micro
from align.training.optim import Group

Objective = Callable[[TokenBatch, list[TokenRow]], Loss]


class Anchor:
    """What an objective takes as given in a step, found from whole steps, so that no cut changes it.

    This one finds nothing.
    """

    def before(self, step: int, epoch: int, rows: list[TokenRow], budget: Budget) -> None:
        """Look at a step's rows; once more with a smaller budget where the step is done again."""

    def after(self, metrics: dict[str, float]) -> dict[str, float]:
        """Take a finished step in; returns the row to log."""
        return metrics

    def state(self) -> dict[str, Any]:
        """What a resume needs, as JSON."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put `state` back."""


@dataclass
class SupervisedTask:
    """Epochs over rows in an order that is a pure function of (seed, epoch).

    Attributes:
        groups: What learns.
        rows: The training rows.
        epochs: Passes over them.
        batch_size: Rows per step; the last batch of an epoch may be smaller.
        budget: Of a micro-batch.
        seed: Of the order.
        objective: Sum of the loss over a micro-batch.
        count: What a step's summed loss is divided by, over all its rows.
        shown: Metric -> its short name on the progress line.
        anchor: What the objective takes as given in a step.
    """

    groups: list[Group]
    rows: Sequence[TokenRow]
    epochs: int
    batch_size: int
    budget: Budget
    seed: int
    objective: Objective
    count: Callable[[Sequence[TokenRow]], float]
    shown: Mapping[str, str]
    anchor: Anchor = field(default_factory=Anchor)

    @property
    def total(self) -> int:
        """Steps."""
        return steps(len(self.rows), self.epochs, self.batch_size)

    def micros(self, step: int) -> tuple[Iterable[Micro], float]:
        """The step's rows, cut by the token budget."""
        epoch, place = divmod(step, steps(len(self.rows), 1, self.batch_size))
        chosen = batches(self.rows, self.seed, epoch, self.batch_size)[place]
        self.anchor.before(step, epoch, chosen, self.budget)
        return self._cut(chosen), self.count(chosen)

    def _cut(self, rows: list[TokenRow]) -> Iterator[Micro]:
        for group, batch in microbatches(rows, self.budget):
            part = [rows[i] for i in group]

            def loss(batch: TokenBatch = batch, part: list[TokenRow] = part) -> Loss:
                return self.objective(batch, part)

            yield Micro(loss, batch.names, int(batch.lengths.sum()))

    def edge(self, step: int) -> bool:
        """A state may be saved after any step."""
        return True

    def after(self, step: int, metrics: dict[str, float]) -> dict[str, float] | None:
        """Log every step."""
        return self.anchor.after(metrics)

    def headline(self, row: Mapping[str, float]) -> dict[str, float]:
        """The numbers of the progress line."""
        return {short: row[name] for name, short in self.shown.items() if name in row}

    def halve(self) -> int:
        """Cut the steps that follow, and the one in hand, into smaller parts."""
        self.budget = self.budget.halved()
        return self.budget.tokens

    def state(self) -> dict[str, Any]:
        """That of the anchor; the order is a pure function of the step."""
        return self.anchor.state()

    def tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put the anchor's back."""
        self.anchor.load(state)


def batches(rows: Sequence[TokenRow], seed: int, epoch: int, size: int) -> list[list[TokenRow]]:
    """The rows of each step of a pass, the last of which may have fewer."""
    order = epoch_order(seed, epoch, len(rows))
    return [[rows[i] for i in order[start : start + size]] for start in range(0, len(rows), size)]


def steps(rows: int, epochs: int, batch_size: int) -> int:
    """Optimizer steps of `epochs` passes over `rows`."""
    return epochs * math.ceil(rows / batch_size)
