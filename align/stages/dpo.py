"""Direct preference optimisation on the best and the worst answer of each ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.config.stages import DpoOptions
from align.data import cards, tokenize
from align.data.types import TokenRow
from align.engine.batch import Budget, TokenBatch, microbatches
from align.models.policy import Policy, load_template, open_policy
from align.objectives.preference import dpo_sigmoid
from align.objectives.reduce import Loss, Metric, merge
from align.stages.base import Stage, starting_point
from align.stages.supervised import fit
from align.training import checks
from align.training.optim import Group
from align.training.supervised import steps


class Dpo(Stage[DpoOptions]):
    """Raise the likelihood of the better answer against the reference's."""

    kind = "dpo"

    def prepare(self) -> int:
        """Tokenise the best and the worst answer of each ranking."""
        o = self.ctx.options
        self.template = load_template(self.ctx.base, self.ctx.recipe.model.template)
        self.pairs = {}
        for split in ("train", "test"):
            data = cards.load(o.data, "rankings", split, max_drop=o.max_drop)
            data.rows = [
                replace(row, answers=row.best_and_worst(), tiers=(0, 1), ratings=()) for row in data.rows
            ]
            self.pairs[split] = tokenize.rankings(
                data, self.template, max_prompt=o.max_prompt, max_answer=o.max_answer, max_drop=o.max_drop
            )
        return steps(len(self.pairs["train"].rows), o.epochs, o.batch_size)

    def run(self, out: Path) -> dict[str, Any]:
        """Train and write a policy."""
        ctx, o = self.ctx, self.ctx.options
        rows, held_out = self.pairs["train"].rows, self.pairs["test"].rows
        checks.last_label_is_eos([*rows, *held_out], self.template.eos_id, ctx.name)
        policy = open_policy(
            starting_point(ctx, o.model), ctx.base, ctx.recipe.model.template, ctx.recipe.adapter, ctx.seed
        )
        budget = policy.budget(o.tokens_per_microbatch)
        # Before the loop puts a saved state back, the policy *is* the reference.
        reference = reference_logps(policy, [*rows, *held_out], budget)

        def objective(batch: TokenBatch, part: Sequence[TokenRow]) -> Loss:
            return pair_loss(policy, batch, part, reference, o.beta, o.label_smoothing)

        _loss_is_ln2_at_step_0(policy, rows[:4], objective)
        done = fit(
            ctx,
            policy,
            [Group("policy", policy.trainable(), o.lr)],
            rows,
            objective,
            count=len,
            shown={"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"},
        )
        policy.save(out)
        return {
            "kind": self.kind,
            "steps": done,
            "rows": len(rows),
            **policy.sizes(),
            "dropped": self.pairs["train"].dropped,
            "held_out": _measure(held_out, budget, objective),
        }


def sequence_logps(logps: Tensor, batch: TokenBatch) -> Tensor:
    """[S] sum of the scored tokens' log-probs [C] of each sequence."""
    return logps.new_zeros(batch.sequences).index_add(0, batch.scored_in, logps)


def pair_loss(
    policy: Policy,
    batch: TokenBatch,
    rows: Sequence[TokenRow],
    reference: dict[str, Tensor],
    beta: float,
    label_smoothing: float,
) -> Loss:
    """The sigmoid loss of a micro-batch whose rows hold (chosen, rejected)."""
    logps = sequence_logps(policy.logps(batch)[0], batch).view(-1, 2)
    ref = torch.stack([reference[row.id] for row in rows])
    return dpo_sigmoid(
        logps[:, 0], logps[:, 1], ref[:, 0], ref[:, 1], beta=beta, label_smoothing=label_smoothing
    )


@torch.no_grad()
def reference_logps(policy: Policy, rows: Sequence[TokenRow], budget: Budget) -> dict[str, Tensor]:
    """Row id -> [2] log-probs of its chosen and rejected answer under the policy as it stands."""
    found: dict[str, Tensor] = {}
    for group, batch in microbatches(rows, budget):
        logps = sequence_logps(policy.logps(batch)[0], batch).view(-1, 2)
        found.update({rows[i].id: logps[place] for place, i in enumerate(group)})
    return found


@torch.no_grad()
def _loss_is_ln2_at_step_0(policy: Policy, rows: Sequence[TokenRow], objective: Any) -> None:
    """Policy and reference are one at step 0, so the loss is ln 2 whatever beta and smoothing."""
    groups = microbatches(rows, Budget(10**9))
    losses = torch.stack(
        [objective(batch, [rows[i] for i in group]).total / len(group) for group, batch in groups]
    )
    checks.same("dpo, step 0", "the loss and ln 2", losses, torch.full_like(losses, 2.0).log(), 1e-5)


@torch.no_grad()
def _measure(rows: Sequence[TokenRow], budget: Budget, objective: Any) -> dict[str, float]:
    parts: list[dict[str, Metric]] = []
    total = 0.0
    for group, batch in microbatches(rows, budget):
        loss = objective(batch, [rows[i] for i in group])
        total += float(loss.total)
        parts.append(loss.metrics)
    return {"loss": total / len(rows), "n": len(rows), **merge(parts)} if rows else {"n": 0}


STAGE = Dpo
