"""The rounds of PPO: sampling, and clipped updates on what was sampled.

Sources: arXiv:1707.06347, arXiv:1909.08593; details of arXiv:2403.17031.

The algorithm, top to bottom, is `PpoTask.collect` (sample, score, compare, value, advantage) and
`PpoTask.micros` (clipped updates on shuffled minibatches).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from align.config.stages import PpoOptions
from align.data.order import epoch_order
from align.data.types import Response, TokenRow
from align.engine.batch import TokenBatch, microbatches
from align.errors import NumericsError
from align.evals.refusals import is_refusal
from align.models.critic import Critic
from align.models.policy import Policy
from align.models.reward_model import RewardModel
from align.objectives.advantage import gae, token_rewards, whiten
from align.objectives.kl import k1
from align.objectives.policy import clipped_ratio
from align.objectives.reduce import Loss
from align.objectives.value import clipped_value, explained_variance
from align.reward.fit_head import fit_values
from align.reward.score import answer_row, score_rows
from align.rollout.ends import Ends
from align.rollout.generate import generate
from align.rollout.types import Rollout
from align.stages.base import StageContext
from align.training import checks
from align.training.kl_control import KLController
from align.training.loop import Micro
from align.training.optim import Group

STEP0 = 1e-3  # the sampler's kernels (one token at a time) and the forward's round differently
SAME = 1e-6  # scores that differ by less differ by rounding


@dataclass
class Round:
    """The samples of one iteration; S answers of at most T tokens, padded with zeros.

    Attributes:
        iteration: Its number, from 0.
        rows: S prompts with one answer each.
        mask: [S, T] True at real tokens.
        logps: [S, T] log-probs recorded when the tokens were sampled.
        values: [S, T] of the critic as it was then.
        advantages: [S, T].
        returns: [S, T] targets of the critic.
        metrics: What the round looked like.
    """

    iteration: int
    rows: list[TokenRow]
    mask: Tensor
    logps: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    metrics: dict[str, float]


class PpoTask:
    """Rounds of sampling, each followed by epochs of clipped updates."""

    def __init__(
        self,
        ctx: StageContext[PpoOptions],
        policy: Policy,
        reward: RewardModel,
        critic: Critic,
        prompts: Sequence[TokenRow],
    ) -> None:
        self.o, self.seed, self.name = ctx.options, ctx.seed, ctx.name
        self.policy, self.reward, self.critic, self.prompts = policy, reward, critic, list(prompts)
        self.eos, self.budget = policy.template.eos_id, policy.budget(self.o.tokens_per_microbatch)
        self.groups = [
            Group("policy", policy.trainable(), self.o.lr),
            Group("critic", critic.trainable(), self.o.critic_lr or 3 * self.o.lr),
        ]
        self.kl = KLController(self.o.kl_coef, self.o.kl_target, self.o.kl_horizon)
        self.mean, self.std = 0.0, 1.0
        self.per_round = self.o.epochs * self.o.minibatches
        self.total = self.o.iterations * self.per_round
        self.now: Round | None = None
        self.updates: list[dict[str, float]] = []

    # --- one iteration ----------------------------------------------------------------------------------

    def collect(self, iteration: int) -> Round:
        """Steps 1 to 6 of an iteration, everything before the first update."""
        o = self.o
        # 1. Sample answers; their log-probs are recorded as they are drawn.
        prompts = self._prompts(iteration)
        rollouts = self.sample(prompts, self.seed * 1_000_003 + iteration, o.samples_per_prompt)
        rows = [_row(r, s) for r, s in zip(rollouts, _repeat(prompts, o.samples_per_prompt), strict=True)]
        mask = _pad([torch.ones(len(r.ids)) for r in rollouts]).bool()
        logps = _pad([torch.tensor(r.logps) for r in rollouts])
        # 2. Score them. The scale of a reward model is arbitrary: its unit becomes that of the reference's
        # answers, which are those of iteration 0. An answer without EOS pays for it.
        raw = self.score(rollouts)
        if iteration == 0 and o.normalise_reward:
            self.mean, self.std = self._unit(raw)
            self.critic.mean, self.critic.std = self.mean, self.std
        ended = torch.tensor([r.ended for r in rollouts])
        scores = (raw - self.mean) / self.std - o.missing_eos_penalty * (~ended)
        # 3. Compare with the reference: a per-token penalty, k1, goes into the reward.
        ref_logps = self._per_token(rows, lambda b: self.policy.ref_logps(b, o.sampling.temperature))
        if iteration == 0:
            self._check_step_0(rows, mask, logps, ref_logps)
        kl = k1(logps, ref_logps) * mask
        rewards = token_rewards(scores, kl, mask, self.kl.coef)
        if iteration == 0 and o.critic_init == "fit":
            self._fit_critic(rows, gae(rewards, torch.zeros_like(rewards), mask, o.gamma, lam=1.0).returns)
        # 4. Value each token, 5. turn rewards and values into advantages, 6. whiten them.
        values = self._per_token(rows, self.critic.values)
        estimate = gae(rewards, values, mask, o.gamma, o.lam)
        advantages = whiten(estimate.advantages, mask) if o.whiten else estimate.advantages
        metrics = self._describe(rollouts, rows, raw, scores, kl.sum(1))
        metrics["val/explained_var"] = explained_variance(values, estimate.returns, mask)
        self.kl.update(metrics["objective/kl"], len(rows))
        return Round(iteration, rows, mask, logps, values, advantages, estimate.returns, metrics)

    def micros(self, step: int) -> tuple[Iterable[Micro], float]:
        """Step 7: clipped updates of policy and critic on shuffled minibatches of the round."""
        iteration, update = divmod(step, self.per_round)
        if self.now is None or self.now.iteration != iteration:
            assert update == 0, "a state stands at the edge of a round"
            self.now, self.updates = self.collect(iteration), []
        epoch, place = divmod(update, self.o.minibatches)
        order = epoch_order(self.seed, iteration * self.o.epochs + epoch, len(self.now.rows))
        size = len(order) // self.o.minibatches
        chosen = list(order[place * size : (place + 1) * size])
        learns = iteration >= self.o.critic_warmup
        return self._cut(self.now, chosen, learns), float(self.now.mask[chosen].sum())

    def _cut(self, now: Round, chosen: list[int], policy_learns: bool) -> Iterator[Micro]:
        rows = [now.rows[i] for i in chosen]
        for group, batch in microbatches(rows, self.budget, score_all=True):
            index = torch.tensor([chosen[i] for i in group])

            def loss(batch: TokenBatch = batch, index: Tensor = index) -> Loss:
                return self._loss(now, batch, index, policy_learns)

            yield Micro(loss, batch.names, int(batch.lengths.sum()))

    def _loss(self, now: Round, batch: TokenBatch, index: Tensor, policy_learns: bool) -> Loss:
        """Sum over tokens of the policy's and the critic's loss; they share no weights that learn."""
        mask = now.mask[index]
        old, advantages = now.logps[index][mask], now.advantages[index][mask]
        every = torch.ones_like(old, dtype=torch.bool)
        values = self.critic.values(batch)
        value = clipped_value(
            values, now.values[index][mask], now.returns[index][mask], every, self.o.value_clip
        )
        if not policy_learns:
            return value
        logps, entropy = self.policy.logps(batch, self.o.sampling.temperature, "entropy")
        policy = clipped_ratio(logps, old, advantages, every, self.o.clip, entropy)
        return Loss(policy.total + value.total, {**policy.metrics, **value.metrics})

    # --- parts ------------------------------------------------------------------------------------------

    def sample(
        self, prompts: Sequence[TokenRow], seed: int, samples: int, model: Any = None
    ) -> list[Rollout]:
        """Answers of the policy, or of another model."""
        ends = Ends.of(self.policy.plain, self.policy.template, self.o.sampling.stop)
        model = model if model is not None else self.policy.plain
        return generate(model, prompts, self.o.sampling, ends, seed=seed, samples=samples)

    def score(self, rollouts: Sequence[Rollout]) -> Tensor:
        """[S] raw scores, read at EOS, which is put behind a cut answer."""
        rows = [answer_row(f"{r.id}/{r.sample}", r.prompt, r.ids, self.eos) for r in rollouts]
        return torch.cat(score_rows(self.reward, rows, self.budget))

    def _unit(self, raw: Tensor) -> tuple[float, float]:
        """Mean and std of the reference's scores [S].

        Raises:
            NumericsError: They do not differ, so there is nothing to learn.
        """
        mean, std = float(raw.mean()), float(raw.std())
        if std < SAME * max(1.0, abs(mean)):
            what = f"all {len(raw)} answers of the first round score {mean:.4g}"
            raise NumericsError(self.name, what, "look at the reward model, and at the samples it was given")
        return mean, std

    def _prompts(self, iteration: int) -> list[TokenRow]:
        """The iteration's prompts: a window over reshuffled passes, a pure function of (seed, iteration).

        The number of the pass is part of the id, so that a prompt that falls twice into a round is drawn
        anew.
        """
        count, size = len(self.prompts), self.o.prompts_per_iteration
        places = range(iteration * size, (iteration + 1) * size)
        passes = range(places[0] // count, places[-1] // count + 1)
        orders = {number: epoch_order(self.seed, number, count) for number in passes}
        rows = [(self.prompts[orders[p // count][p % count]], p // count) for p in places]
        return [replace(row, id=f"{row.id}@{number}") for row, number in rows]

    @torch.no_grad()
    def _per_token(self, rows: Sequence[TokenRow], read: Callable[[TokenBatch], Tensor]) -> Tensor:
        """[S, T] one number per answer token."""
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        for group, batch in microbatches(rows, self.budget, score_all=True):
            sizes = torch.bincount(batch.scored_in, minlength=batch.sequences).tolist()
            for i, part in zip(group, read(batch).split(sizes), strict=True):
                found[i] = part
        return _pad(found)

    def _fit_critic(self, rows: Sequence[TokenRow], returns: Tensor) -> None:
        """Start the critic's head at the first round's discounted returns [S, T]."""
        groups = microbatches(rows, self.budget, score_all=True)
        fit_values(
            self.critic,
            (
                (b, torch.cat([returns[i, : len(rows[i].responses[0].ids)] for i in group]))
                for group, b in groups
            ),
        )

    def _check_step_0(self, rows: list[TokenRow], mask: Tensor, logps: Tensor, ref_logps: Tensor) -> None:
        """Before the first update: ratio 1, KL 0, and the sampler's log-probs are the forward's."""
        now = self._per_token(rows, lambda b: self.policy.logps(b, self.o.sampling.temperature)[0])
        checks.same(
            f"{self.name}, step 0", "log-probs of policy and reference", now[mask], ref_logps[mask], 1e-6
        )
        checks.same(
            f"{self.name}, step 0",
            "log-probs as sampled and recomputed",
            now[mask],
            logps[mask],
            checks.rounding(self.policy.plain, STEP0),
        )
        checks.reward_alone_equals_batched(
            self.reward, [answer_row(r.id, r.prompt, r.responses[0].ids, self.eos) for r in rows[:4]]
        )

    def _describe(
        self, rollouts: Sequence[Rollout], rows: Sequence[TokenRow], raw: Tensor, scores: Tensor, kl: Tensor
    ) -> dict[str, float]:
        """What the round looked like, under the names the field knows."""
        texts = [self.policy.template.decode(list(r.text_ids(self.eos))) for r in rollouts]
        metrics = {
            "objective/scores": float(raw.mean()),
            "objective/kl": float(kl.mean()),
            "objective/kl_coef": self.kl.coef,
            "objective/rlhf_reward": float((scores - self.kl.coef * kl).mean()),
            "response/length": sum(len(r.ids) for r in rollouts) / len(rollouts),
            "response/eos_rate": sum(r.ended for r in rollouts) / len(rollouts),
            "response/refusal_rate": sum(map(is_refusal, texts)) / len(texts),
        }
        for source in sorted({row.source for row in rows}):
            part = [i for i, row in enumerate(rows) if row.source == source]
            metrics[f"objective/scores/{source}"] = float(raw[part].mean())
            metrics[f"response/refusal_rate/{source}"] = sum(is_refusal(texts[i]) for i in part) / len(part)
        return metrics

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
        return {"iteration": float(step // self.per_round + 1), **self.now.metrics, **means}

    def headline(self, row: Mapping[str, float]) -> dict[str, float]:
        """The numbers of the progress line."""
        return {
            "reward": row["objective/scores"],
            "KL": row["objective/kl"],
            "refusals": row["response/refusal_rate"],
        }

    def halve(self) -> int:
        """Smaller parts from now on."""
        self.budget = self.budget.halved()
        return self.budget.tokens

    def state(self) -> dict[str, Any]:
        """The adaptive coefficient and the reward's unit."""
        return {
            "kl_coef": self.kl.coef,
            "mean": self.mean,
            "std": self.std,
            "critic_mean": self.critic.mean,
            "critic_std": self.critic.std,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Put them back."""
        self.kl.coef, self.mean, self.std = state["kl_coef"], state["mean"], state["std"]
        self.critic.mean, self.critic.std = state["critic_mean"], state["critic_std"]


def _row(rollout: Rollout, prompt: TokenRow) -> TokenRow:
    response = Response(rollout.ids, (1.0,) * len(rollout.ids))
    return TokenRow(f"{rollout.id}/{rollout.sample}", rollout.prompt, (response,), source=prompt.source)


def _repeat(rows: Sequence[TokenRow], times: int) -> list[TokenRow]:
    return [row for row in rows for _ in range(times)]


def _pad(rows: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
