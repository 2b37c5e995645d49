"""Preferences learned directly, without a reward model or sampling: the DPO family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from align.config.stages import DpoOptions
from align.data import cards, tokenize
from align.data.rankings import thin
from align.data.types import Dataset, Ranking, TokenRow
from align.engine.batch import TokenBatch
from align.models.policy import load_template
from align.objectives.reduce import Loss
from align.stages.answer_logps import WHOLE, loss_is_known_at_step_0, of
from align.stages.base import Stage, starting_point
from align.stages.dpo_objective import Preference
from align.stages.opening import policy_from
from align.stages.reference import cached_logps
from align.stages.supervised import fit, measure, planned
from align.training import checks
from align.training.optim import Group


class Dpo(Stage[DpoOptions]):
    """Raise the likelihood of better answers, against the reference's where the loss reads one."""

    kind = "dpo"

    def prepare(self) -> int:
        """Tokenise the best and the worst answer of each ranking, or all of them."""
        o = self.ctx.options
        self.template = load_template(self.ctx.base, self.ctx.recipe.model.template)
        self.tokens = {
            split: tokenize.rankings(
                self._load(split),
                self.template,
                max_prompt=o.max_prompt,
                max_answer=o.max_answer,
                max_drop=o.max_drop,
            )
            for split in ("train", "test")
        }
        return planned(self.ctx, self.tokens["train"])

    def _load(self, split: Literal["train", "test"]) -> Dataset[Ranking]:
        o = self.ctx.options
        data = cards.load(o.data, "rankings", split, max_drop=o.max_drop)
        if Preference.of(o).rankings:
            data.rows = [thin(row, o.max_answers) for row in data.rows]
        else:
            data.rows = [
                replace(row, answers=row.best_and_worst(), tiers=(0, 1), ratings=()) for row in data.rows
            ]
        return data

    def run(self, out: Path) -> dict[str, Any]:
        """Train and write a policy."""
        ctx, o = self.ctx, self.ctx.options
        rows, held_out = self.tokens["train"].rows, self.tokens["test"].rows
        checks.last_label_is_eos([*rows, *held_out], self.template.eos_id, ctx.name)
        start = starting_point(ctx, o.model)
        policy = policy_from(ctx, start)
        preference = Preference.of(o)
        budget = policy.budget(o.tokens_per_microbatch)
        reference: dict[str, Tensor] = {}
        if preference.reads_reference:
            # Before the loop puts a saved state back, the policy *is* the reference.
            # TRL computes that of the training rows by itself; a few are checked below.
            every = [*(rows if o.engine == "align" else rows[:4]), *held_out]
            compute = partial(preference.reference, policy, every, budget)
            reference = cached_logps(ctx, start, every, compute, how=[o.ld_alpha])
        if preference.reads_ratios_only:
            read = partial(preference.sequence_logps, policy)
            tolerance = checks.rounding(policy.plain, 1e-5)
            loss_is_known_at_step_0(ctx.name, rows[:4], read, preference.loss, reference, tolerance)
        if preference.whole_batch:
            budget = replace(budget, tokens=WHOLE)

        def objective(batch: TokenBatch, part: Sequence[TokenRow]) -> Loss:
            logps, weights = preference.read(policy, batch)
            return preference.loss(logps, of(reference, part) if reference else None, batch, part, weights)

        together = o.batch_size if preference.whole_batch else None
        # Where all is told against the reference, every margin begins at 0.
        before = {} if preference.reads_ratios_only else measure(held_out, budget, objective, together)
        done = fit(
            ctx,
            policy,
            [Group("policy", policy.trainable(), o.lr)],
            rows,
            objective,
            count=len,
            shown={"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"},
            budget=budget,
        )
        policy.save(out)
        return {
            "kind": self.kind,
            "steps": done,
            "rows": len(rows),
            "reads": "rankings" if preference.rankings else "pairs",
            "answers": sum(len(row.responses) for row in rows),
            **policy.sizes(),
            "dropped": self.tokens["train"].dropped,
            **({"before": before} if before else {}),
            "held_out": measure(held_out, budget, objective, together),
        }


STAGE = Dpo
