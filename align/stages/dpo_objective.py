"""The objective of `dpo`: from the log-probs of a micro-batch to the loss that the options name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from align.config.losses import LOSSES, Traits, weights_of
from align.config.stages import DpoOptions
from align.data.types import TokenRow
from align.engine.batch import Budget, TokenBatch
from align.models.policy import Policy
from align.objectives.pairs import Knobs, Pairs, length_desensitised, on_policy
from align.objectives.preference import listwise_loss, preference_loss
from align.objectives.reduce import Loss
from align.stages.answer_logps import by_id, summed
from align.stages.rectangle import rectangle


@dataclass(frozen=True)
class Preference:
    """A weighted sum of losses on pairs, or on whole rankings.

    Attributes:
        weights: Name -> weight.
        knobs: What the losses read.
        ld_alpha: Weight of the tokens behind the length of a pair's shorter answer; None for 1.
        wpo: Weigh each pair by how likely its answers are under the policy of now.
    """

    weights: Mapping[str, float]
    knobs: Knobs
    ld_alpha: float | None = None
    wpo: bool = False

    @classmethod
    def of(cls, options: DpoOptions) -> Preference:
        """What the options name."""
        knobs = Knobs(
            beta=options.beta,
            label_smoothing=options.label_smoothing,
            divergence=options.divergence,
            alpha=options.alpha,
            tau=options.discopop_tau,
            gamma=options.simpo_gamma,
        )
        return cls(weights_of(options.loss), knobs, options.ld_alpha, options.wpo)

    @property
    def _traits(self) -> list[Traits]:
        return [LOSSES[name] for name in self.weights]

    @property
    def rankings(self) -> bool:
        """Reads all answers of a ranking; else rows hold (chosen, rejected)."""
        return any(trait.rankings for trait in self._traits)

    @property
    def reads_reference(self) -> bool:
        """Some loss compares with the reference."""
        return any(trait.reference for trait in self._traits)

    @property
    def reads_ratios_only(self) -> bool:
        """Every loss compares with the reference, so at the reference its value is known."""
        return all(trait.reference for trait in self._traits)

    @property
    def whole_batch(self) -> bool:
        """The pairs of a step are compared with one another, so they may not be cut."""
        return any(trait.whole_batch for trait in self._traits)

    def sequence_logps(self, policy: Policy, batch: TokenBatch) -> Tensor:
        """[S] log-prob of each whole answer."""
        return self._summed(policy.logps(batch)[0], batch)

    def read(self, policy: Policy, batch: TokenBatch) -> tuple[Tensor, Tensor | None]:
        """[S] log-probs of whole answers, and [P] weights of the pairs; None where all count alike."""
        if not self.wpo:
            return self.sequence_logps(policy, batch), None
        logps, log_squares = policy.logps(batch, measure="log_squares")
        assert log_squares is not None
        weights = on_policy(logps, log_squares, batch.scored_in, scored_tokens(batch))
        return self._summed(logps, batch), weights

    def _summed(self, logps: Tensor, batch: TokenBatch) -> Tensor:
        if self.ld_alpha is not None:
            weights = length_desensitised(scored_tokens(batch).view(-1, 2), self.ld_alpha)
            logps = logps * weights.to(logps)
        return summed(logps, batch)

    def reference(self, policy: Policy, rows: Sequence[TokenRow], budget: Budget) -> dict[str, Tensor]:
        """Row id -> [K] log-probs of its answers under the policy as it stands."""
        return by_id(rows, budget, partial(self.sequence_logps, policy))

    def loss(
        self,
        logps: Tensor,
        ref: Tensor | None,
        batch: TokenBatch,
        rows: Sequence[TokenRow],
        pair_weights: Tensor | None = None,
    ) -> Loss:
        """The loss of a micro-batch.

        Args:
            logps: [S] log-probs of the rows' answers, row by row, with gradient.
            ref: [S] under the reference; None where no loss reads it.
            batch: The rows, packed.
            rows: B rows; (chosen, rejected) each, or whole rankings.
            pair_weights: [B] of pairs; None where all count alike.

        Returns:
            Sum over the B rows.
        """
        if self.rankings:
            assert ref is not None
            shape = rectangle(rows)
            return listwise_loss(
                shape.fill(logps), shape.fill(ref), shape.tiers, shape.mask, self.weights, self.knobs.beta
            )
        chosen, rejected = logps.view(-1, 2).unbind(dim=1)
        chosen_tokens, rejected_tokens = scored_tokens(batch).view(-1, 2).unbind(dim=1)
        ref_chosen, ref_rejected = (None, None) if ref is None else ref.view(-1, 2).unbind(dim=1)
        pairs = Pairs(
            chosen, rejected, chosen_tokens, rejected_tokens, ref_chosen, ref_rejected, pair_weights
        )
        return preference_loss(pairs, self.weights, self.knobs)


def scored_tokens(batch: TokenBatch) -> Tensor:
    """[S] number of scored tokens of each sequence."""
    return torch.bincount(batch.scored_in, minlength=batch.sequences)
