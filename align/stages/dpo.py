"""Preferences learned directly, without a reward model or sampling: the DPO family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from align.config.stages import DpoOptions
from align.data import cards, tokenize
from align.data.rankings import thin
from align.data.types import Dataset, Ranking, TokenRow
from align.engine.batch import Budget, TokenBatch, microbatches
from align.models.policy import Policy, load_template, open_policy
from align.objectives.reduce import Loss, Metric, merge
from align.stages.base import Stage, starting_point
from align.stages.dpo_objective import Preference
from align.stages.reference import cached_logps
from align.stages.supervised import fit, planned
from align.training import checks
from align.training.optim import Group

WHOLE = 10**9  # tokens: a budget that cuts nothing


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
        return planned(self.ctx, self.tokens["train"].rows)

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
        policy = open_policy(start, ctx.base, ctx.recipe.model.template, ctx.recipe.adapter, ctx.seed)
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
            _loss_is_known_at_step_0(policy, preference, rows[:4], reference)
        if preference.whole_batch:
            budget = replace(budget, tokens=WHOLE)

        def objective(batch: TokenBatch, part: Sequence[TokenRow]) -> Loss:
            logps = preference.sequence_logps(policy, batch)
            return preference.loss(logps, _of(reference, part), batch, part)

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
            "held_out": _measure(
                held_out, budget, o.batch_size if preference.whole_batch else None, objective
            ),
        }


def _of(reference: Mapping[str, Tensor], rows: Sequence[TokenRow]) -> Tensor | None:
    """[S] log-probs of the rows' answers under the reference; None where none were computed."""
    return torch.cat([reference[row.id] for row in rows]) if reference else None


@torch.no_grad()
def _loss_is_known_at_step_0(
    policy: Policy, preference: Preference, rows: Sequence[TokenRow], reference: Mapping[str, Tensor]
) -> None:
    """Policy and reference are one at step 0: the loss is that of equal log-probs, ln 2 for `sigmoid`."""
    for group, batch in microbatches(rows, Budget(WHOLE)):
        part = [rows[i] for i in group]
        logps, ref = preference.sequence_logps(policy, batch), _of(reference, part)
        equal = torch.zeros_like(logps)
        found, want = (
            (preference.loss(x, y, batch, part).total / len(part)).reshape(1)
            for x, y in ((logps, ref), (equal, equal))
        )
        checks.same("dpo, step 0", "the loss and that of policy = reference", found, want, 1e-5)


@torch.no_grad()
def _measure(
    rows: Sequence[TokenRow], budget: Budget, together: int | None, objective: Callable[..., Loss]
) -> dict[str, float]:
    """Loss and metrics; `together` rows at a time where the loss compares rows with one another."""
    if not rows:
        return {"n": 0}
    parts: list[dict[str, Metric]] = []
    total = 0.0
    size = together or len(rows)
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        for group, batch in microbatches(some, budget):
            loss = objective(batch, [some[i] for i in group])
            total += float(loss.total)
            parts.append(loss.metrics)
    return {"loss": total / len(rows), "n": len(rows), **merge(parts)}


STAGE = Dpo
