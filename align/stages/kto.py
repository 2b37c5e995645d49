"""Preferences learned from single answers that somebody called desirable or undesirable: KTO and its kin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from align.config.stages import KtoOptions
from align.data import cards, tokenize
from align.data.types import TokenRow
from align.engine.batch import TokenBatch
from align.errors import DataError
from align.models.policy import load_template
from align.objectives.reduce import Loss
from align.objectives.unpaired import bco, kto
from align.stages.answer_logps import by_id, loss_is_known_at_step_0, of, summed
from align.stages.base import Stage, starting_point
from align.stages.kto_anchor import HELD_OUT, Kl, Middle, Zero, mismatched
from align.stages.opening import policy_from
from align.stages.reference import cached_logps
from align.stages.supervised import fit, measure, planned
from align.training import checks
from align.training.optim import Group
from align.training.supervised import batches

UNPAIRED_LOSSES: dict[str, Callable[..., Loss]] = {"kto": kto, "bco": bco, "apo_zero_unpaired": kto}
LOPSIDED = 2.0  # weight of one label over that of the other, above which it is told
MOST = 4 / 3  # of desirable over undesirable answers, in the rule of the paper; the least is 1
Known = dict[str, Tensor]


class Kto(Stage[KtoOptions]):
    """Raise the likelihood of desirable answers over the reference's, and lower that of undesirable ones."""

    kind = "kto"

    def prepare(self) -> int:
        """Tokenise the answers, and look at their labels."""
        o = self.ctx.options
        self.template = load_template(self.ctx.base, self.ctx.recipe.model.template)
        self.tokens = {split: self._load(split) for split in ("train", "test")}
        good, bad = counts(self.tokens["train"].rows)
        problem = imbalance(o, good, bad, f"stages.{self.ctx.name}")
        if problem:
            self.ctx.reporter.warn(problem)
        return planned(self.ctx, self.tokens["train"])

    def _load(self, split: Literal["train", "test"]) -> tokenize.Tokenised:
        o = self.ctx.options
        data = cards.load(o.data, "unpaired", split, max_drop=o.max_drop)
        return tokenize.unpaired(
            data, self.template, max_prompt=o.max_prompt, max_answer=o.max_answer, max_drop=o.max_drop
        )

    def run(self, out: Path) -> dict[str, Any]:
        """Train and write a policy."""
        ctx, o = self.ctx, self.ctx.options
        rows, held_out = self.tokens["train"].rows, self.tokens["test"].rows
        checks.last_label_is_eos([*rows, *held_out], self.template.eos_id, ctx.name)
        start = starting_point(ctx, o.model)
        policy = policy_from(ctx, start)
        budget = policy.budget(o.tokens_per_microbatch)

        def logps(batch: TokenBatch) -> Tensor:
            return summed(policy.logps(batch)[0], batch)

        # Before the loop puts a saved state back, the policy *is* the reference.
        passes = self._mismatched() if o.loss == "kto" else {}
        # TRL computes that of the training rows by itself; a few are checked below.
        every = [*(rows if o.engine == "align" else rows[:4]), *held_out]
        asked = asked_of_reference(every, passes)
        compute = partial(by_id, asked, budget, logps)
        own, others = told_by_reference(cached_logps(ctx, start, asked, compute), passes)
        anchors = {"kto": Kl(policy, logps, others), "bco": Middle(), "apo_zero_unpaired": Zero()}
        anchor: Zero = anchors[o.loss]

        def loss(found: Tensor, ref: Tensor, batch: TokenBatch, part: Sequence[TokenRow]) -> Loss:
            desirable = torch.tensor([row.desirable for row in part])
            weights = o.desirable_weight, o.undesirable_weight
            return UNPAIRED_LOSSES[o.loss](found, ref, desirable, anchor.value, o.beta, *weights)

        def objective(batch: TokenBatch, part: Sequence[TokenRow]) -> Loss:
            return loss(logps(batch), of(own, part), batch, part)

        tolerance = checks.rounding(policy.plain, 1e-5)
        loss_is_known_at_step_0(ctx.name, rows[:4], logps, loss, own, tolerance)
        groups = [Group("policy", policy.trainable(), o.lr)]
        shown = {"loss": "loss", "rewards/margins": "margin", "kl": "KL"}
        done = fit(ctx, policy, groups, rows, objective, len, shown, budget, anchor)
        policy.save(out)
        anchor.before(done, HELD_OUT, held_out, budget)
        good, bad = counts(rows)
        return {
            "kind": self.kind,
            "steps": done,
            "rows": len(rows),
            "desirable": good,
            "undesirable": bad,
            **policy.sizes(),
            "dropped": self.tokens["train"].dropped,
            "held_out": anchor.told(measure(held_out, budget, objective)) if held_out else {"n": 0},
        }

    def _mismatched(self) -> dict[int, list[TokenRow]]:
        """Number of the pass -> its rows with the answers that the KL of their steps is estimated from."""
        o, rows = self.ctx.options, self.tokens["train"].rows
        passes = {HELD_OUT: mismatched(self.tokens["test"].rows)}
        for epoch in range(o.epochs if o.engine == "align" else 0):
            parts = batches(rows, self.ctx.seed, epoch, o.batch_size)
            passes[epoch] = [row for part in parts for row in mismatched(part)]
        return passes


def asked_of_reference(rows: Sequence[TokenRow], passes: Mapping[int, Sequence[TokenRow]]) -> list[TokenRow]:
    """What the reference is asked about: all answers, and those that are put to other rows' prompts.

    The answers of a row and of its first pass share the forward of their prompt. Later passes are rows of
    their own, so that no row grows with the number of passes.
    """
    first = {row.id: row.responses for epoch, part in passes.items() if epoch <= 0 for row in part}
    asked = [replace(row, responses=(*row.responses, *first.get(row.id, ()))) for row in rows]
    later = {epoch: part for epoch, part in passes.items() if epoch > 0}
    return asked + [replace(row, id=_asked(row.id, e)) for e, part in later.items() for row in part]


def told_by_reference(
    found: Mapping[str, Tensor], passes: Mapping[int, Sequence[TokenRow]]
) -> tuple[Known, dict[int, Known]]:
    """What came of `asked_of_reference`, taken apart.

    Returns:
        Row id -> [1] log-prob of its own answer; number of the pass -> row id -> [1] that of the mismatched.
    """
    others = {
        epoch: {row.id: found[_asked(row.id, epoch)][-1:] for row in part} for epoch, part in passes.items()
    }
    return {name: logps[:1] for name, logps in found.items()}, others


def _asked(name: str, epoch: int) -> str:
    """The id under which a row of a pass is asked about; no id of a row holds U+0000."""
    return name if epoch <= 0 else f"{name}\x00{epoch}"


def counts(rows: Sequence[TokenRow]) -> tuple[int, int]:
    """Desirable and undesirable answers."""
    good = sum(row.desirable is True for row in rows)
    return good, len(rows) - good


def imbalance(options: KtoOptions, good: int, bad: int, key: str) -> str | None:
    """A line where one label outweighs the other; w_d n_d / (w_u n_u) shall be 1 to 4/3 (arXiv:2402.01306).

    Args:
        options: Hold the weights w.
        good: n_d, desirable answers.
        bad: n_u, undesirable ones.
        key: Of the stage, `stages.<name>`.

    Raises:
        DataError: All answers are called the same.
    """
    if not good or not bad:
        has, lacks, label = "desirable", "undesirable", "false"
        if not good:
            has, lacks, label = lacks, has, "true"
        what = f"all {good + bad} answers to train on are {has}"
        raise DataError(f"{key}.data", what, f"add {lacks} ones (label: {label})")
    good_weight, bad_weight = options.desirable_weight, options.undesirable_weight
    ratio = good_weight * good / (bad_weight * bad)
    if 1 / LOPSIDED <= ratio <= LOPSIDED:
        return None
    if ratio < 1:
        name, low, high = "desirable_weight", good_weight / ratio, MOST * good_weight / ratio
    else:
        name, low, high = "undesirable_weight", bad_weight * ratio / MOST, bad_weight * ratio
    return (
        f"{good} desirable answers weigh {ratio:.3g} times what {bad} undesirable ones do, "
        f"and 1 to 4/3 times is advised; try {key}.{name}={low:.3g}, at most {high:.3g}"
    )


STAGE = Kto
