"""A reward model from rankings of K answers in ordered tiers, one forward per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.config.stages import RewardOptions
from align.data import cards, tokenize
from align.data.rankings import subset, thin
from align.data.types import Dataset, Ranking, TokenRow
from align.engine.batch import TokenBatch
from align.models.policy import load_template
from align.models.reward_model import RewardModel, new_reward_model
from align.objectives.ranking import RANKING_LOSSES, centring
from align.objectives.reduce import Loss
from align.reward import quality
from align.reward.fit_head import fit_head
from align.reward.score import score_rows
from align.stages.base import Stage, starting_point
from align.stages.rectangle import padded, rectangle
from align.stages.supervised import fit, planned
from align.training import checks
from align.training.optim import Group


class Reward(Stage[RewardOptions]):
    """Learn a number for an answer from people's rankings."""

    kind = "reward"

    def prepare(self) -> int:
        """Tokenise the training and the held-out rankings."""
        o = self.ctx.options
        self.template = load_template(self.ctx.base, self.ctx.recipe.model.template)
        self.texts = {split: self._load(split) for split in ("train", "test")}
        self.tokens = {
            split: tokenize.rankings(
                data, self.template, max_prompt=o.max_prompt, max_answer=o.max_answer, max_drop=o.max_drop
            )
            for split, data in self.texts.items()
        }
        return planned(self.ctx, self.tokens["train"].rows)

    def _load(self, split: Any) -> Dataset[Ranking]:
        o = self.ctx.options
        data = cards.load(o.data, "rankings", split, max_drop=o.max_drop)
        data.rows = [thin(row, o.max_answers) for row in data.rows]
        return data

    def run(self, out: Path) -> dict[str, Any]:
        """Train and write a reward model."""
        ctx, o = self.ctx, self.ctx.options
        rows, held_out = self.tokens["train"].rows, self.tokens["test"].rows
        checks.last_label_is_eos([*rows, *held_out], self.template.eos_id, ctx.name)
        reward = new_reward_model(
            starting_point(ctx, o.model),
            ctx.base,
            ctx.recipe.model.template,
            ctx.recipe.adapter,
            layers=o.layers,
            seed=ctx.seed,
        )
        checks.reward_alone_equals_batched(reward, rows[:4])
        if o.head_init == "fit":
            ridge = fit_head(reward, rows, reward.budget(o.tokens_per_microbatch))
            ctx.reporter.note(f"head fitted on frozen features, ridge {ridge:g}")
        done = self._fit(reward, rows)
        reward.save(out)
        scores = [s.numpy() for s in score_rows(reward, held_out, reward.budget(o.tokens_per_microbatch))]
        return {
            "kind": self.kind,
            "steps": done,
            "rows": len(rows),
            "answers": sum(len(row.responses) for row in rows),
            **reward.sizes(),
            "dropped": self.tokens["train"].dropped,
            "quality": quality.report(
                self.texts["train"].rows, self._held_out_texts(), scores, seed=ctx.seed
            ),
        }

    def _held_out_texts(self) -> list[Ranking]:
        """The held-out rankings as texts, with the answers that tokenising kept."""
        by_id = {row.id: row for row in self.texts["test"].rows}
        return [subset(by_id[row.id], row.places) for row in self.tokens["test"].rows]

    def _fit(self, reward: RewardModel, rows: Sequence[TokenRow]) -> int:
        o = self.ctx.options
        trainable = reward.trainable()
        head = {n: p for n, p in trainable.items() if ".score." in f".{n}"}
        body = {n: p for n, p in trainable.items() if n not in head}

        def objective(batch: TokenBatch, part: Sequence[TokenRow]) -> Loss:
            return ranking_loss(reward.scores(batch), part, o)

        groups = [Group("reward", body, o.lr), Group("head", head, o.head_lr or o.lr, clip_with="reward")]
        shown = {"loss": "loss", "accuracy": "accuracy"}
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
    loss = RANKING_LOSSES.get(options.loss)(filled, shape.tiers, shape.mask, ratings, options.margin)
    if options.centring == 0:
        return loss
    extra = centring(filled, shape.mask)
    return Loss(loss.total + options.centring * extra.total, {**loss.metrics, **extra.metrics})


STAGE = Reward
