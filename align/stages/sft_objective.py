"""The likelihood that `sft` trains on: which loss of a token, how tokens and rows weigh, noise or none."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from align.config.stages import SftOptions
from align.data.types import TokenRow
from align.engine.batch import Budget, TokenBatch
from align.engine.noise import neftune
from align.models.policy import Policy
from align.objectives.likelihood import dft, nll, smoothed_nll
from align.objectives.reduce import Loss
from align.training.supervised import Anchor


class Likelihood(Anchor):
    """Sum of the loss over a micro-batch, and what a step's sum is divided by.

    By token that is the weight of all tokens. By sequence it is the weight of all rows, and a row's tokens
    share the row's weight. Either way a row's own weight scales it.
    """

    def __init__(self, policy: Policy, options: SftOptions, seed: int) -> None:
        self.policy, self.options, self.seed = policy, options, seed
        self.step = 0

    def before(self, step: int, epoch: int, rows: list[TokenRow], budget: Budget) -> None:
        """What follows belongs to this step: its noise is another."""
        self.step = step

    def __call__(self, batch: TokenBatch, rows: Sequence[TokenRow]) -> Loss:
        """The loss of the rows, which are those of the batch."""
        o = self.options
        scales = torch.tensor([self._scale(row) for row in rows])
        weights = batch.weights * scales[batch.rows[batch.scored_in]]
        with neftune(self.policy.plain, batch, o.neftune_alpha, self.seed, self.step):
            if o.label_smoothing > 0:
                logps, means = self.policy.logps_and_means(batch)
                return smoothed_nll(logps, means, weights, o.label_smoothing)
            logps = self.policy.logps(batch)[0]
        return dft(logps, weights) if o.loss == "dft" else nll(logps, weights)

    def count(self, rows: Sequence[TokenRow]) -> float:
        """What the summed loss of the rows is divided by."""
        by_token = self.options.normalise == "token"
        return sum(row.weight * (_tokens(row) if by_token else 1.0) for row in rows)

    def _scale(self, row: TokenRow) -> float:
        """What multiplies the weights of the row's tokens."""
        return row.weight if self.options.normalise == "token" else row.weight / _tokens(row)


def _tokens(row: TokenRow) -> float:
    """Scored tokens by their weights."""
    return sum(sum(response.weights) for response in row.responses)
