"""What the losses on single answers compare a reward with: the KL, a moving middle, or 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from align.data.types import TokenRow
from align.engine.batch import Budget
from align.models.policy import Policy
from align.stages.answer_logps import Read, by_id, of
from align.training.supervised import Anchor

HELD_OUT = -1  # the number of the pass over the held-out rows
DECAY = 0.9  # of the moving means of BCO


class Zero(Anchor):
    """Rewards are compared with 0; also what the others share.

    Attributes:
        value: The point of reference of the step in hand.
    """

    value = 0.0

    def after(self, metrics: dict[str, float]) -> dict[str, float]:
        """The row to log."""
        return self.told(metrics)

    def told(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics, with the margin where there are answers of both labels."""
        chosen, rejected = metrics.get("rewards/chosen"), metrics.get("rewards/rejected")
        if chosen is None or rejected is None:
            return dict(metrics)
        return {**metrics, "rewards/margins": chosen - rejected}


@dataclass
class Kl(Zero):
    """z0 of KTO: max(0, mean log-ratio of answers to other rows' prompts), arXiv:2402.01306.

    Each prompt is put before the answer of the row before it in the step, and the mean goes over the whole
    step.

    Attributes:
        policy: Looked at as it stands before the step, without dropout.
        read: [S] log-probs of a batch's answers under it.
        reference: Number of the pass -> row id -> [1] log-prob of its mismatched answer under the reference.
    """

    policy: Policy
    read: Read
    reference: Mapping[int, Mapping[str, Tensor]]

    def before(self, step: int, epoch: int, rows: list[TokenRow], budget: Budget) -> None:
        """A forward without gradient over the mismatched answers."""
        if not rows:
            return
        training = self.policy.model.training
        self.policy.model.eval()
        try:
            found = by_id(mismatched(rows), budget, self.read)
        finally:
            self.policy.model.train(training)
        ratios = of(found, rows) - of(self.reference[epoch], rows)
        self.value = max(0.0, float(ratios.mean()))

    def told(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics with `kl`, nats per answer."""
        return {**super().told(metrics), "kl": self.value}


@dataclass
class Middle(Zero):
    """delta of BCO: the middle between the moving means of good and bad answers' rewards, arXiv:2404.04656.

    Before the first step all rewards are 0, and so are both means. A step is compared with the middle of the
    steps before it, which no cut of its own into micro-batches can change.

    Attributes:
        chosen: Moving mean of the rewards of desirable answers.
        rejected: The same of undesirable ones.
    """

    chosen: float = 0.0
    rejected: float = 0.0

    def after(self, metrics: dict[str, float]) -> dict[str, float]:
        """Take the step's rewards in; the row to log holds the `delta` that they were compared with."""
        told = self.told(metrics)
        self.chosen = _moved(self.chosen, metrics.get("rewards/chosen"))
        self.rejected = _moved(self.rejected, metrics.get("rewards/rejected"))
        self.value = (self.chosen + self.rejected) / 2
        return told

    def told(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics with `delta`."""
        return {**super().told(metrics), "delta": self.value}

    def state(self) -> dict[str, Any]:
        """Both means."""
        return {"chosen": self.chosen, "rejected": self.rejected}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put them back."""
        self.chosen, self.rejected = state["chosen"], state["rejected"]
        self.value = (self.chosen + self.rejected) / 2


def _moved(mean: float, new: float | None) -> float:
    """A moving mean; a step without answers of that label leaves it where it is."""
    return mean if new is None else DECAY * mean + (1 - DECAY) * new


def mismatched(rows: Sequence[TokenRow]) -> list[TokenRow]:
    """Each prompt with the answer of the row before it, the first with that of the last.

    A step of one row, which only the end of a pass may have, keeps its own answer.
    """
    answers = [row.responses for row in rows]
    return [replace(row, responses=a) for row, a in zip(rows, [*answers[-1:], *answers[:-1]], strict=True)]
