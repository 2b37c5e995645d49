"""A process reward model: each step of an answer is scored at its last token, the separator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from align.config.stages import ProcessRewardOptions
from align.data import cards, tokenize
from align.data.types import TokenRow
from align.engine.batch import TokenBatch
from align.errors import DataError
from align.models.policy import load_template
from align.models.reward_model import RewardModel, Steps
from align.objectives.process import PROCESS_LOSSES
from align.objectives.reduce import Loss
from align.reward import quality
from align.reward.steps import AGGREGATES, step_values
from align.stages.base import Stage
from align.stages.opening import fresh_reward_model
from align.stages.supervised import body_and_head, fit, planned
from align.training import checks


class ProcessReward(Stage[ProcessRewardOptions]):
    """Learn a number for each step of an answer."""

    kind = "process_reward"

    def prepare(self) -> int:
        """Tokenise the training and the held-out answers, and see that their labels can be learned."""
        o = self.ctx.options
        self.template = load_template(self.ctx.base, self.ctx.recipe.model.template)
        self.train, self.held_out = (self._load(part) for part in ("train", "test"))
        for row in (*self.train.rows, *self.held_out.rows):
            wrong = [label for label in row.step_labels if not 0 <= label <= 1]
            if wrong and o.loss == "bce":
                what = f"the label {wrong[0]:g} is no probability"
                raise DataError(f"row {row.id}", what, f"give 0 to 1, or stages.{self.ctx.name}.loss=mse")
        labels = {label for row in self.train.rows for label in row.step_labels}
        if len(labels) < 2:
            what = f"all steps have the label {labels.pop():g}"
            raise DataError(self.train.name, what, "give right and wrong steps")
        return planned(self.ctx, self.train)

    def _load(self, part: Any) -> tokenize.Tokenised:
        o = self.ctx.options
        data = cards.load(o.data, "stepwise", part, max_drop=o.max_drop)
        return tokenize.stepwise(
            data,
            self.template,
            o.step_separator,
            max_prompt=o.max_prompt,
            max_answer=o.max_answer,
            max_drop=o.max_drop,
        )

    def run(self, out: Path) -> dict[str, Any]:
        """Train and write a reward model that later stages read step by step."""
        ctx, o, rows = self.ctx, self.ctx.options, self.train.rows
        checks.last_label_is_eos([*rows, *self.held_out.rows], self.template.eos_id, ctx.name)
        reward = fresh_reward_model(ctx)
        reward.steps = Steps(o.step_separator, o.aggregate, o.loss)
        checks.reward_alone_equals_batched(reward, rows[:4])
        loss = PROCESS_LOSSES.get(o.loss)

        def objective(batch: TokenBatch, part: Sequence[TokenRow]) -> Loss:
            return loss(reward.step_scores(batch), labels_of(part))

        done = fit(
            ctx,
            reward,
            body_and_head(reward, o.lr, o.head_lr),
            rows,
            objective,
            count=lambda part: len(labels_of(part)),
            shown={"loss": "loss", "accuracy": "accuracy", "error": "error"},
        )
        reward.save(out)
        return {
            "kind": self.kind,
            "steps": done,
            "rows": len(rows),
            "labels": len(labels_of(rows)),
            **reward.sizes(),
            "dropped": self.train.dropped,
            "quality": self._quality(reward, reward.steps),
        }

    def _quality(self, reward: RewardModel, read: Steps) -> dict[str, Any]:
        """How well held-out steps are judged, beside always saying the same."""
        budget = reward.budget(self.ctx.options.tokens_per_microbatch)
        rows, known = self.held_out.rows, labels_of(self.train.rows).double()
        values = [row[0].double().numpy() for row in step_values(reward, read, rows, budget)]
        probabilities = read.loss == "bce"
        usual = float((known > 0.5).double().mean() > 0.5) if probabilities else float(known.mean())
        aggregate = AGGREGATES.get(read.aggregate)
        found = quality.step_report(
            values,
            [np.array(row.step_labels) for row in rows],
            usual,
            lambda x: float(aggregate(torch.from_numpy(x))),
            probabilities=probabilities,
            seed=self.ctx.seed,
        )
        return {"steps": found} if found else {}


def labels_of(rows: Sequence[TokenRow]) -> Tensor:
    """[C] labels of the rows' steps, row by row."""
    return torch.tensor([label for row in rows for label in row.step_labels])


STAGE = ProcessReward
