"""From the raw score of an answer to the reward that is optimised: unit, limit and penalties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

SAME = 1e-6  # scores that differ by less, relative to their size, differ by rounding


@dataclass
class Scale:
    """The unit of the scores, which is arbitrary in a reward model.

    `reference` takes mean and std of the first answers, which are the reference's, for good. `running`
    divides by the std of all scores so far, and leaves their mean alone.

    Attributes:
        kind: Which of them.
        clip: Largest scaled score of either sign; None for no limit.
        count: Scores seen.
        mean: Of the scores that the unit is taken from.
        squares: Sum of squared distances from that mean.
    """

    kind: Literal["reference", "running", "none"]
    clip: float | None = None
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def std(self) -> float:
        """Of a sample, so divided by count - 1; 1 where nothing was seen."""
        return (self.squares / (self.count - 1)) ** 0.5 if self.count > 1 else 1.0

    @property
    def unit(self) -> tuple[float, float]:
        """What is taken from a raw score, and what the rest is divided by."""
        return (self.mean if self.kind == "reference" else 0.0, 1.0 if self.kind == "none" else self.std)

    def see(self, raw: Tensor) -> None:
        """Take [S] raw scores into the statistics (B. P. Welford's sums, merged as by Chan et al. 1979)."""
        if self.kind == "none" or (self.kind == "reference" and self.count):
            return
        new, mean = len(raw), float(raw.double().mean())
        apart, total = mean - self.mean, self.count + new
        self.squares += float((raw.double() - mean).square().sum()) + apart**2 * self.count * new / total
        self.mean += apart * new / total
        self.count = total

    @property
    def flat(self) -> bool:
        """True where the scores seen do not differ, so there is no unit."""
        return self.kind != "none" and self.std < SAME * max(1.0, abs(self.mean))

    def __call__(self, raw: Tensor) -> Tensor:
        """[S] scaled and clipped scores."""
        mean, std = self.unit
        scaled = (raw - mean) / std
        return scaled if self.clip is None else scaled.clamp(-self.clip, self.clip)

    def state(self) -> dict[str, Any]:
        """The statistics, as JSON."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put them back."""
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]


def overlong(lengths: Tensor, limit: int, buffer: int) -> Tensor:
    """How much answers near the limit lose: nothing up to the buffer, then linearly up to 1.

    Equation: (length - (limit - buffer)) / buffer, at least 0 and at most 1 (DAPO's soft overlong punishment,
    arXiv:2503.14476, Eq. 13, with the sign turned).

    Args:
        lengths: [S] tokens of each answer.
        limit: Most that an answer may have.
        buffer: Last tokens in which it begins to lose; 0 for none.

    Returns:
        [S] to be taken from the score.

    Example:
        >>> overlong(torch.tensor([6, 8, 9, 10]), limit=10, buffer=2).tolist()
        [0.0, 0.0, 0.5, 1.0]
    """
    if buffer == 0:
        return torch.zeros(len(lengths))
    return ((lengths - (limit - buffer)) / buffer).clamp(0.0, 1.0)
