"""The objective of `reward` with `loss: ordinal`: absolute ratings, and the thresholds between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from align.config.stages import RewardOptions
from align.data.rankings import level_of
from align.data.types import TokenRow
from align.models.reward_model import THRESHOLDS
from align.objectives.ordinal import cumulative_link, marginal_thresholds, steps_of, thresholds_of
from align.objectives.reduce import Loss
from align.stages.rectangle import padded, rectangle
from align.training.optim import Group


@dataclass
class Ordinal:
    """Classes of ratings, and the steps between their thresholds, which learn with the model.

    Attributes:
        scale: The J levels of the rating scale, lowest first.
        key: The option that gives them, for messages.
        steps: [J - 1] see `objectives.ordinal.steps_of`.
    """

    scale: tuple[float, ...]
    key: str
    steps: nn.Parameter

    @classmethod
    def of(cls, scale: tuple[float, ...], key: str, rows: Sequence[TokenRow]) -> Ordinal:
        """Thresholds that give each level the frequency that it has in the training rows."""
        classes = [level_of(rating, scale, key) for row in rows for rating in row.ratings]
        counts = [classes.count(level) for level in range(len(scale))]
        return cls(scale, key, nn.Parameter(steps_of(marginal_thresholds(counts))))

    @property
    def thresholds(self) -> Tensor:
        """[J - 1] as they stand, without gradient."""
        return thresholds_of(self.steps.detach())

    def group(self, options: RewardOptions) -> Group:
        """They learn as fast as the head, and their gradient is clipped with the model's."""
        lr = options.head_lr or options.lr
        return Group("thresholds", {"steps": self.steps}, lr, clip_with="reward")

    def classes(self, row: TokenRow) -> list[int]:
        """[K] the level of each answer."""
        return [level_of(rating, self.scale, self.key) for rating in row.ratings]

    def classes_and_usual(
        self, held_out: Sequence[TokenRow], train: Sequence[TokenRow]
    ) -> tuple[list[list[int]], int]:
        """The classes of held-out answers, and the median class of the training answers."""
        known = sorted(level for row in train for level in self.classes(row))
        return [self.classes(row) for row in held_out], known[(len(known) - 1) // 2]

    def loss(self, scores: Tensor, rows: Sequence[TokenRow]) -> Loss:
        """The loss of a micro-batch.

        Args:
            scores: [S] scores of the rows' responses, row by row.
            rows: B rated rows.

        Returns:
            Sum over the B prompts.
        """
        shape = rectangle(rows)
        classes = padded([self.classes(row) for row in rows], torch.long)
        return cumulative_link(shape.fill(scores), classes, shape.mask, thresholds_of(self.steps))

    def save(self, folder: Path) -> None:
        """Write the scale and its thresholds beside the model."""
        found = {"scale": self.scale, "thresholds": self.thresholds.tolist()}
        (folder / THRESHOLDS).write_text(json.dumps(found, indent=2) + "\n")
