"""A reward model from rankings of K answers in ordered tiers, or from ratings, one forward per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.config.stages import RewardOptions
from align.data import cards, tokenize
from align.data.rankings import level_of, rating_scale, subset, thin
from align.data.types import Dataset, Ranking, TokenRow
from align.data.views import Expect
from align.engine.batch import TokenBatch
from align.errors import DataError
from align.models.policy import load_template
from align.models.reward_model import RewardModel
from align.objectives.ranking import RANKING_LOSSES, centring
from align.objectives.reduce import Loss
from align.reward import quality
from align.reward.fit_head import fit_head
from align.reward.score import score_rows
from align.stages.base import Stage
from align.stages.opening import fresh_reward_model
from align.stages.ordinal_objective import Ordinal
from align.stages.rectangle import padded, rectangle
from align.stages.supervised import body_and_head, fit, planned
from align.training import checks


class Reward(Stage[RewardOptions]):
    """Learn a number for an answer from people's rankings or ratings."""

    kind = "reward"
    ordinal: Ordinal | None = None  # where it learns from ratings

    def prepare(self) -> int:
        """Tokenise the training and the held-out rankings; with ratings, see that they are on one scale."""
        o = self.ctx.options
        self.template = load_template(self.ctx.base, self.ctx.recipe.model.template)
        self.texts = {split: self._load(split) for split in ("train", "test")}
        if o.margin > 0:
            self._look_for_ratings(self.texts["train"])
        self.tokens = {
            split: tokenize.rankings(
                data,
                self.template,
                max_prompt=o.max_prompt,
                max_answer=o.max_answer,
                max_drop=o.max_drop,
                ordered=o.loss != "ordinal",
            )
            for split, data in self.texts.items()
        }
        if o.loss == "ordinal":
            key = f"stages.{self.ctx.name}.scale"
            self.scale = rating_scale(self.texts["train"].rows, o.scale, key)
            for row in self.texts["test"].rows:
                for rating in row.ratings:
                    level_of(rating, self.scale, key)
        return planned(self.ctx, self.tokens["train"])

    def _load(self, split: Any) -> Dataset[Ranking]:
        o = self.ctx.options
        expect: Expect = "ratings" if o.loss == "ordinal" else "rankings"
        data = cards.load(o.data, expect, split, max_drop=o.max_drop)
        data.rows = [thin(row, o.max_answers) for row in data.rows]
        return data

    def _look_for_ratings(self, train: Dataset[Ranking]) -> None:
        """A margin is scaled by ratings: rankings without any have none."""
        key = f"stages.{self.ctx.name}.margin"
        bare = sum(not row.ratings for row in train.rows)
        if bare == len(train.rows):
            what = (
                f"{self.ctx.options.margin:g} scales differences of ratings, and {train.name} has no ratings"
            )
            raise DataError(key, what, f"give rankings by ratings, or try {key}=0")
        if bare:
            self.ctx.reporter.warn(
                f"{bare} of {len(train.rows)} rankings have no ratings, and {key} gives them no margin"
            )

    def run(self, out: Path) -> dict[str, Any]:
        """Train and write a reward model."""
        ctx, o = self.ctx, self.ctx.options
        rows, held_out = self.tokens["train"].rows, self.tokens["test"].rows
        checks.last_label_is_eos([*rows, *held_out], self.template.eos_id, ctx.name)
        reward = fresh_reward_model(ctx)
        checks.reward_alone_equals_batched(reward, rows[:4])
        if o.head_init == "fit":
            ridge = fit_head(reward, rows, reward.budget(o.tokens_per_microbatch))
            ctx.reporter.note(f"head fitted on frozen features, ridge {ridge:g}")
        if o.loss == "ordinal":
            self.ordinal = Ordinal.of(self.scale, f"stages.{ctx.name}.scale", rows)
        done = self._fit(reward, rows)
        reward.save(out)
        if self.ordinal is not None:
            self.ordinal.save(out)
        scores = [s.numpy() for s in score_rows(reward, held_out, reward.budget(o.tokens_per_microbatch))]
        return {
            "kind": self.kind,
            "steps": done,
            "rows": len(rows),
            "answers": sum(len(row.responses) for row in rows),
            **reward.sizes(),
            "dropped": self.tokens["train"].dropped,
            "quality": self._quality(scores),
        }

    def _quality(self, scores: Sequence[Any]) -> dict[str, Any]:
        """How well held-out answers are ordered, and where they were rated, put into classes."""
        train, held_out, seed = self.texts["train"].rows, self._held_out_texts(), self.ctx.seed
        ordinal = self.ordinal
        if ordinal is None:
            return quality.report(train, held_out, scores, seed=seed)
        ranked = [i for i, row in enumerate(held_out) if len(set(row.tiers)) > 1]
        found = quality.report(
            [row for row in train if len(set(row.tiers)) > 1],
            [held_out[i] for i in ranked],
            [scores[i] for i in ranked],
            seed=seed,
        )
        classes, usual = ordinal.classes_and_usual(self.tokens["test"].rows, self.tokens["train"].rows)
        rated = quality.rating_report(scores, classes, ordinal.thresholds.numpy(), usual, seed=seed)
        return {**found, "ratings": {"scale": list(self.scale), **rated}} if rated else found

    def _held_out_texts(self) -> list[Ranking]:
        """The held-out rankings as texts, with the answers that tokenising kept."""
        by_id = {row.id: row for row in self.texts["test"].rows}
        return [subset(by_id[row.id], row.places) for row in self.tokens["test"].rows]

    def _fit(self, reward: RewardModel, rows: Sequence[TokenRow]) -> int:
        o, ordinal = self.ctx.options, self.ordinal

        def objective(batch: TokenBatch, part: Sequence[TokenRow]) -> Loss:
            scores = reward.scores(batch)
            return ranking_loss(scores, part, o) if ordinal is None else ordinal.loss(scores, part)

        groups = body_and_head(reward, o.lr, o.head_lr)
        if ordinal is not None:
            groups.append(ordinal.group(o))
        shown = {"loss": "loss", "accuracy": "accuracy", "class/error": "error"}
        return fit(self.ctx, reward, groups, rows, objective, count=len, shown=shown)


def ranking_loss(scores: Tensor, rows: Sequence[TokenRow], options: RewardOptions) -> Loss:
    """The loss of a micro-batch of rankings.

    Args:
        scores: [S] scores of the rows' responses, row by row.
        rows: B rankings.
        options: Which loss, margin and centring.

    Returns:
        Sum over the B prompts.
    """
    shape = rectangle(rows)
    filled = shape.fill(scores)
    # Rows without ratings get equal ones, so margin 0, whatever rows share their micro-batch.
    ratings = padded([row.ratings or (0.0,) * len(row.tiers) for row in rows], torch.float32)
    loss = RANKING_LOSSES.get(options.loss)(
        filled, shape.tiers, shape.mask, ratings, options.margin, options.label_smoothing
    )
    if options.centring == 0:
        return loss
    extra = centring(filled, shape.mask)
    return Loss(loss.total + options.centring * extra.total, {**loss.metrics, **extra.metrics})


STAGE = Reward
