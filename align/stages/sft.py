"""Supervised fine-tuning: the likelihood of assistant tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from align.config.stages import SftOptions
from align.data import cards, tokenize
from align.data.types import TokenRow
from align.engine.batch import Budget, microbatches
from align.models.policy import Policy, load_template
from align.objectives.likelihood import nll
from align.stages.base import Stage, starting_point
from align.stages.opening import policy_from
from align.stages.sft_objective import Likelihood
from align.stages.supervised import fit, planned
from align.training import checks
from align.training.optim import Group


class Sft(Stage[SftOptions]):
    """Imitate the assistant's turns of conversations."""

    kind = "sft"

    def prepare(self) -> int:
        """Tokenise the training and the held-out conversations."""
        self.template = load_template(self.ctx.base, self.ctx.recipe.model.template)
        self.data, self.held_out = (self._load(part) for part in ("train", "test"))
        return planned(self.ctx, self.data)

    def _load(self, part: Any) -> tokenize.Tokenised:
        o = self.ctx.options
        data = cards.load(o.data, "conversations", part, max_drop=o.max_drop)
        return tokenize.conversations(
            data,
            self.template,
            max_prompt=o.max_prompt,
            max_answer=o.max_answer,
            max_drop=o.max_drop,
            train_on=o.train_on,
        )

    def run(self, out: Path) -> dict[str, Any]:
        """Train and write a policy."""
        ctx, o = self.ctx, self.ctx.options
        checks.last_label_is_eos(self.data.rows, self.template.eos_id, ctx.name)
        policy = policy_from(ctx, starting_point(ctx, o.model))
        before = held_out_nll(policy, self.held_out.rows, policy.budget(o.tokens_per_microbatch))
        objective = Likelihood(policy, o, ctx.seed)
        done = fit(
            ctx,
            policy,
            [Group("policy", policy.trainable(), o.lr)],
            self.data.rows,
            objective,
            count=objective.count,
            shown={"loss": "loss"},
            anchor=objective,
        )
        policy.save(out)
        return {
            "kind": self.kind,
            "steps": done,
            "rows": len(self.data.rows),
            "dropped": self.data.dropped,
            "before": before,
            "after": held_out_nll(policy, self.held_out.rows, policy.budget(o.tokens_per_microbatch)),
            **policy.sizes(),
        }


@torch.no_grad()
def held_out_nll(policy: Policy, rows: list[TokenRow], budget: Budget) -> dict[str, float]:
    """Mean negative log-likelihood of the scored tokens, nats per token, and their number."""
    total, count = 0.0, 0.0
    for _, batch in microbatches(rows, budget):
        total += float(nll(policy.logps(batch)[0], batch.weights).total)
        count += float(batch.weights.sum())
    return {"nll": total / count, "tokens": count, "n": float(len(rows))} if count else {"n": 0.0}


STAGE = Sft
