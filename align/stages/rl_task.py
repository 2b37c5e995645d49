"""Updates of policy and critic on the rounds that `rl_round` collects.

Sources: PPO arXiv:1707.06347, its use on language models arXiv:1909.08593 with the details of
arXiv:2403.17031; each part that the recipe chooses has its own in `align.objectives`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from align.config.rl_options import RlOptions
from align.data.order import epoch_order
from align.data.types import TokenRow
from align.engine.batch import TokenBatch, microbatches
from align.errors import NumericsError
from align.evals import hacking
from align.models.critic import Critic
from align.models.policy import Policy
from align.objectives import policy as losses
from align.objectives.likelihood import nll
from align.objectives.reduce import Loss, Metric
from align.objectives.value import clipped_value
from align.stages.base import StageContext
from align.stages.rl_round import Collector, Round
from align.training.loop import Micro
from align.training.optim import Group


class RlTask:
    """Rounds of sampling, each followed by epochs of updates on shuffled minibatches of it."""

    def __init__(
        self,
        ctx: StageContext[RlOptions],
        collector: Collector,
        policy: Policy,
        critic: Critic | None,
        imitated: Sequence[TokenRow] = (),
    ) -> None:
        self.o, self.seed = ctx.options, ctx.seed
        self.ctx, self.warned = ctx, set[str]()
        self.collector, self.policy, self.critic, self.imitated = collector, policy, critic, list(imitated)
        self.groups = [Group("policy", policy.trainable(), self.o.lr)]
        if critic is not None:
            self.groups.append(Group("critic", critic.trainable(), self.o.critic_lr or 3 * self.o.lr))
        self.per_round = self.o.epochs * self.o.minibatches
        self.total = self.o.iterations * self.per_round
        self.now: Round | None = None
        self.updates: list[dict[str, float]] = []

    def micros(self, step: int) -> tuple[Iterable[Micro], float]:
        """The step's minibatch, cut by the token budget; a new round where one begins."""
        iteration, update = divmod(step, self.per_round)
        if self.now is None or self.now.iteration != iteration:
            assert update == 0, "a state stands at the edge of a round"
            self.now, self.updates = self.collector.collect(iteration), []
        now = self.now
        epoch, place = divmod(update, self.o.minibatches)
        order = epoch_order(self.seed, iteration * self.o.epochs + epoch, len(now.rows))
        size = len(order) // self.o.minibatches
        chosen = list(order[place * size : (place + 1) * size])
        lengths = now.mask[chosen].sum(1)[now.learns[chosen]]
        count = max(1.0, losses.token_count(lengths, self.o.normalise))
        policy_learns = iteration >= self.o.critic_warmup
        return self._cut(now, chosen, policy_learns, step, count), count

    def _cut(
        self, now: Round, chosen: list[int], policy_learns: bool, step: int, count: float
    ) -> Iterator[Micro]:
        rows = [now.rows[i] for i in chosen]
        for group, batch in microbatches(rows, self.collector.budget):
            index = torch.tensor([chosen[i] for i in group])

            def loss(batch: TokenBatch = batch, index: Tensor = index) -> Loss:
                return self._loss(now, batch, index, policy_learns)

            yield Micro(loss, batch.names, int(batch.lengths.sum()))
        if policy_learns and self.imitated:
            yield from self._imitate(step, count)

    def _loss(self, now: Round, batch: TokenBatch, index: Tensor, policy_learns: bool) -> Loss:
        """Weighted sum over tokens of policy's and critic's loss, which share no weights that learn."""
        mask, o = now.mask[index], self.o
        weights = losses.token_weights(mask.sum(1), o.normalise, o.longest) * now.learns[index]
        each = weights[:, None].expand(mask.shape)[mask]
        parts: list[Loss] = []
        if self.critic is not None and now.values is not None:
            old, returns = now.values[index][mask], now.returns[index][mask]
            parts.append(clipped_value(self.critic.values(batch), old, returns, each, o.value_clip))
        if policy_learns:
            parts += self._policy_losses(now, batch, index, mask, each)
        return _sum(parts)

    def _policy_losses(
        self, now: Round, batch: TokenBatch, index: Tensor, mask: Tensor, weights: Tensor
    ) -> list[Loss]:
        o, bonus = self.o, self.o.entropy_coef > 0
        logps, entropy = self.policy.logps(batch, o.sampling.temperature, "entropy", bonus=bonus)
        assert entropy is not None, "it was asked for"
        old, advantages = now.logps[index][mask], now.advantages[index][mask]
        owners = torch.arange(len(index))[:, None].expand(mask.shape)[mask]
        ratios = losses.log_ratio(logps, old, owners, o.ratio)
        high = o.clip if o.clip_high is None else o.clip_high
        if o.loss == "cispo":
            found = [losses.clipped_weight(ratios, logps, advantages, weights, high)]
        else:
            found = [losses.clipped_ratio(ratios, advantages, weights, o.clip, high, o.dual_clip)]
        found.append(_times(-o.entropy_coef, losses.entropy_bonus(entropy, weights)))
        if o.kl_in == "loss" and now.ref_logps is not None and o.kl in ("k2", "k3"):
            ref = now.ref_logps[index][mask]
            coef = self.collector.kl.coef
            found.append(_times(coef, losses.kl_penalty(logps, ref, weights, o.kl)))
        return found

    def _imitate(self, step: int, count: float) -> Iterator[Micro]:
        """InstructGPT's pretraining mix (arXiv:2203.02155, Eq. 2): conversations beside each minibatch."""
        o, size = self.o, self.o.ptx_batch
        places = range(step * size, (step + 1) * size)
        total = len(self.imitated)
        rows = [self.imitated[epoch_order(self.seed, p // total, total)[p % total]] for p in places]
        tokens = sum(sum(r.weights) for row in rows for r in row.responses)
        for _, batch in microbatches(rows, self.collector.budget):

            def loss(batch: TokenBatch = batch) -> Loss:
                found = nll(self.policy.logps(batch)[0], batch.weights)
                # The loop divides by the minibatch's count, and this is a mean over tokens of its own.
                metrics = {"loss/ptx": Metric(found.total, batch.weights.sum())}
                return Loss(found.total * (o.ptx_coef * count / tokens), metrics)

            yield Micro(loss, batch.names, int(batch.lengths.sum()))

    # --- what the loop asks -----------------------------------------------------------------------------

    def edge(self, step: int) -> bool:
        """A state stands between rounds, so a round is never trained twice or in part."""
        return step % self.per_round == 0

    def after(self, step: int, metrics: dict[str, float]) -> dict[str, float] | None:
        """One row per round: the round's numbers and the mean over its updates."""
        self.updates.append(metrics)
        if not self.edge(step + 1) or self.now is None:
            return None
        names = sorted({name for update in self.updates for name in update})
        means = {}
        for name in names:
            values = [update[name] for update in self.updates if name in update]
            means[name] = sum(values) / len(values)
        row = {"iteration": float(step // self.per_round + 1), **self.now.metrics, **means}
        self._alarm(row)
        return row

    def _alarm(self, row: Mapping[str, float]) -> None:
        """Say what speaks against a rising reward, each kind of sign once.

        Raises:
            NumericsError: The recipe asks to stop.
        """
        where = f"{self.ctx.name}, iteration {row['iteration']:.0f}"
        for sign in hacking.signs([*self.ctx.work.metrics.rows(), row], self.o.alarm):
            if self.o.alarm.stop:
                raise NumericsError(where, sign, self._show_samples())
            kind = sign.split(" went ")[0].split(" is ")[0]  # without its numbers, which change
            if kind not in self.warned:
                self.ctx.reporter.warn(f"{where}: {sign}")
                self.warned.add(kind)

    def _show_samples(self) -> str:
        """Write five answers of the round down; returns where, and what to do."""
        assert self.now is not None, "a round was collected"
        path = self.ctx.work.folder / "alarm_samples.jsonl"
        decode, rows = self.policy.template.decode, self.now.rows[:5]
        lines = [{"prompt": decode(list(r.prompt)), "answer": decode(list(r.responses[0].ids))} for r in rows]
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        return f"read {path}; lower lr or raise kl_coef, or set alarm.stop=false"

    def headline(self, row: Mapping[str, float]) -> dict[str, float]:
        """The numbers of the progress line."""
        shown = {"reward": "objective/scores", "KL": "objective/kl", "refusals": "response/refusal_rate"}
        return {short: row[name] for short, name in shown.items() if name in row}

    def halve(self) -> int:
        """Smaller parts from now on."""
        self.collector.budget = self.collector.budget.halved()
        return self.collector.budget.tokens

    def state(self) -> dict[str, Any]:
        """The collector's."""
        return self.collector.state()

    def tensors(self) -> dict[str, Tensor]:
        """The reference, where it is no longer what the stage started from."""
        return self.policy.reference_tensors() if self.o.reference_every else {}

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put both back."""
        self.collector.load(state)
        if self.o.reference_every:
            self.policy.load_reference(tensors)


def _sum(parts: Sequence[Loss]) -> Loss:
    total = torch.stack([part.total for part in parts]).sum()
    return Loss(total, {name: metric for part in parts for name, metric in part.metrics.items()})


def _times(factor: float, loss: Loss) -> Loss:
    """The loss scaled; its metrics stay as they are."""
    return Loss(factor * loss.total if factor else loss.total.detach() * 0.0, loss.metrics)
