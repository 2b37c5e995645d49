"""Align: its loop, batches and losses on the given token rows, as its stages call them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import align
from align.artifacts.store import Store
from align.config.schema import LoraAdapter, NoAdapter
from align.config.stages import DpoOptions, RewardOptions, SftOptions, SupervisedOptions
from align.data.order import epoch_order
from align.data.types import Response, TokenRow
from align.engine.batch import TokenBatch
from align.models.policy import open_policy
from align.models.reward_model import new_reward_model
from align.objectives.likelihood import nll
from align.objectives.pairs import Knobs
from align.objectives.reduce import Loss
from align.stages.base import StageContext
from align.stages.dpo_objective import Preference
from align.stages.reward import ranking_loss
from align.stages.supervised import fit
from align.training.optim import Group
from benchmarks.rows import Row
from benchmarks.sides.ours_rollout import OurRollouts
from benchmarks.sides.start import restore
from benchmarks.spec import ALPHA, BETA, CLIP, LR, RANK, Spec

SEED = 0
OPTIONS: dict[str, type[SupervisedOptions]] = {"sft": SftOptions, "reward": RewardOptions, "dpo": DpoOptions}


class Quiet:
    """A reporter that says nothing."""

    def step(self, step: int, total: int, headline: Mapping[str, float], tokens: int = 0) -> None:
        """A step is done."""

    def note(self, text: str) -> None:
        """One line."""

    def warn(self, text: str) -> None:
        """One line."""


class Ours:
    """One stage of Align."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.folder = spec, Path(spec.model)
        adapter = (
            NoAdapter(kind="none")
            if spec.adapter == "full"
            else LoraAdapter(kind="lora", r=RANK, alpha=ALPHA)
        )
        self.options = OPTIONS[spec.stage].model_validate(_options(spec))
        self.model: Any  # a policy or a reward model
        if spec.stage == "reward":
            self.model = new_reward_model(
                self.folder, self.folder, spec.template, adapter, layers=None, seed=SEED
            )
        else:
            self.model = open_policy(self.folder, self.folder, spec.template, adapter, SEED)
        self.budget = self.model.budget(self.options.tokens_per_microbatch)
        self.preference = Preference({"sigmoid": 1.0}, Knobs(beta=BETA))

    def prepare(self, rows: Sequence[Row]) -> None:
        """Start weights, rows, and the reference's log-probs where they are cached."""
        restore(self.model.model, self.folder)
        self.rows = _as_seen(rows)
        self.reference = self._reference() if self.spec.cached else None
        self.scratch = tempfile.TemporaryDirectory()
        work = Store(Path(self.scratch.name)).work("policy", "0" * 64)
        recipe: Any = SimpleNamespace()
        self.ctx: StageContext[Any] = StageContext(
            "bench", self.options, recipe, SEED, self.folder, {}, work, Quiet(), lambda: False
        )

    def _reference(self) -> Any:
        return self.preference.reference(self.model, self.rows, self.budget)

    def train(self) -> None:
        """What the stage does between opening and saving its model."""
        run = {"sft": self._sft, "reward": self._reward, "dpo": self._dpo}[self.spec.stage]
        run()

    def _sft(self) -> None:
        def objective(batch: TokenBatch, rows: Sequence[TokenRow]) -> Loss:
            return nll(self.model.logps(batch)[0], batch.weights)

        self._fit([Group("policy", self.model.trainable(), LR)], objective, _scored)

    def _reward(self) -> None:
        def objective(batch: TokenBatch, rows: Sequence[TokenRow]) -> Loss:
            return ranking_loss(self.model.scores(batch), rows, self.options)  # type: ignore[arg-type]

        self._fit([Group("reward", self.model.trainable(), LR)], objective, len)

    def _dpo(self) -> None:
        reference = self.reference or self._reference()

        def objective(batch: TokenBatch, rows: Sequence[TokenRow]) -> Loss:
            refs = torch.cat([reference[row.id] for row in rows])
            return self.preference.loss(self.preference.sequence_logps(self.model, batch), refs, batch, rows)

        self._fit([Group("policy", self.model.trainable(), LR)], objective, len)

    def _fit(self, groups: list[Group], objective: Any, count: Any) -> None:
        fit(self.ctx, self.model, groups, self.rows, objective, count=count, shown={})

    def finish(self) -> tuple[list[float], list[float]]:
        """Loss and gradient norm of each step."""
        steps = self.ctx.work.metrics.rows()
        self.ctx.work.metrics.close()
        self.scratch.cleanup()
        self.model.model.zero_grad(set_to_none=True)
        del self.rows, self.reference, self.ctx
        norms = [math.hypot(*(v for k, v in step.items() if k.startswith("grad_norm/"))) for step in steps]
        return [step["loss"] for step in steps], norms

    def versions(self) -> dict[str, str]:
        """Align and what it computes with."""
        return {"align": align.__version__, **{name: version(name) for name in ("torch", "transformers")}}


def _options(spec: Spec) -> dict[str, Any]:
    return {
        "kind": spec.stage, "data": "given", "lr": LR, "schedule": "constant", "warmup": 0.0,
        "weight_decay": 0.0, "max_grad_norm": CLIP, "epochs": 1, "batch_size": spec.batch,
        "tokens_per_microbatch": spec.tokens or "auto",
    }  # fmt: skip


def _as_seen(rows: Sequence[Row]) -> list[TokenRow]:
    """The rows laid out so that the order of Align's first epoch is the given one."""
    found: list[TokenRow | None] = [None] * len(rows)
    for place, row in zip(epoch_order(SEED, 0, len(rows)), rows, strict=True):
        answers = tuple(Response(ids, weights) for ids, weights in zip(row.answers, row.weights, strict=True))
        found[place] = TokenRow(f"{place}:{row.id}", row.prompt, answers, tiers=row.tiers)
    return [row for row in found if row is not None]


def _scored(rows: Sequence[TokenRow]) -> float:
    return sum(sum(response.weights) for row in rows for response in row.responses)


def open_side(spec: Spec) -> Ours | OurRollouts:
    """The side of this module."""
    return OurRollouts(spec) if spec.stage == "rollout" else Ours(spec)
