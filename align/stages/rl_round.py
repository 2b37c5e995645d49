"""One round of reinforcement learning before its updates: sample, score, compare, value, advantage.

`Collector.collect` is the algorithm from top to bottom. A round depends on the weights, the seed and the
collector's state only. What is dear in it, the samples and their scores, is kept on disk until the next
state is saved, so that a killed run does not pay for them twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from align.artifacts.work import Work
from align.config.rl_options import GROUPED, RlOptions
from align.data.order import epoch_order
from align.data.types import Prompt, Response, TokenRow
from align.engine.batch import TokenBatch, microbatches
from align.errors import IntegrityError, NumericsError
from align.evals.refusals import is_refusal
from align.models.critic import Critic
from align.models.policy import Policy
from align.objectives.advantage import gae, token_rewards
from align.objectives.kl import k1, k2, k3
from align.objectives.value import explained_variance
from align.reward import functions
from align.reward.fit_head import fit_values
from align.reward.shaping import Scale, overlong
from align.reward.types import Scorer, Scores
from align.rollout.ends import Ends
from align.rollout.episodes import Episodes
from align.rollout.generate import generate
from align.rollout.types import Rollout
from align.stages.answered import answered
from align.stages.base import StageContext
from align.stages.rl_advantage import Earned, advantages
from align.stages.rl_sampled import Group, Sampled, groups_of
from align.training import checks
from align.training.kl_control import KLController

PASS = " @"  # between the id of a prompt and the number of the pass it is drawn in
STEP0 = 1e-3  # the sampler's kernels (one token at a time) and the forward's round differently
ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


@dataclass(frozen=True)
class Round:
    """The samples of one iteration with their targets; S answers of at most T tokens, padded with zeros.

    T counts sampled tokens alone: what an environment says between them stands in `rows` as context of weight
    0, and no tensor has a place for it.

    Attributes:
        iteration: Its number, from 0.
        rows: S prompts with one answer each.
        mask: [S, T] True at sampled tokens, False at padding.
        learns: [S] True for answers that count in the loss.
        logps: [S, T] log-probs recorded when the tokens were sampled.
        advantages: [S, T].
        ref_logps: [S, T] under the reference; None without one.
        values: [S, T] of the critic as it was then; None without one.
        returns: [S, T] targets of the critic.
        metrics: What the round looked like.
    """

    iteration: int
    rows: list[TokenRow]
    mask: Tensor
    learns: Tensor
    logps: Tensor
    advantages: Tensor
    ref_logps: Tensor | None
    values: Tensor | None
    returns: Tensor
    metrics: dict[str, float]


class Collector:
    """Samples and scores rounds; holds what lasts from one to the next."""

    def __init__(
        self,
        ctx: StageContext[RlOptions],
        policy: Policy,
        scorer: Scorer,
        critic: Critic | None,
        prompts: Sequence[TokenRow],
        texts: Mapping[str, Prompt],
    ) -> None:
        self.o, self.seed, self.name, self.say = ctx.options, ctx.seed, ctx.name, ctx.reporter.note
        self.policy, self.scorer, self.critic = policy, scorer, critic
        self.prompts, self.texts = list(prompts), texts
        self.rounds: Work = ctx.work.side("rounds")
        self.ends = Ends.of(policy.plain, policy.template, self.o.sampling.stop)
        self.eos, self.budget = policy.template.eos_id, policy.budget(self.o.tokens_per_microbatch)
        self.kl = KLController(self.o.kl_coef, self.o.kl_target, self.o.kl_horizon)
        self.scale = Scale(self.o.reward_scale, self.o.reward_clip)
        self.episodes = self._episodes()
        self.position = 0

    def collect(self, iteration: int) -> Round:
        """Everything of an iteration before its first update."""
        o = self.o
        # 1. Sample answers; their log-probs are recorded as they are drawn. 2. Score them.
        sampled = self._kept(iteration) or self._sample(iteration)
        self.position = sampled.position
        rollouts = sampled.rollouts
        rows = [
            _row(r, p) for r, p in zip(rollouts, _repeat(sampled.prompts, o.samples_per_prompt), strict=True)
        ]
        mask = _pad([torch.ones(len(r.logps)) for r in rollouts]).bool()
        logps = _pad([torch.tensor(r.logps) for r in rollouts])
        scores = self._scaled(rollouts, sampled.scores.values, first=iteration == 0)
        # 3. Compare with the reference, token by token.
        if o.reference_every and iteration and iteration % o.reference_every == 0:
            self.policy.keep_reference()
        ref_logps = self._ref_logps(rows)
        kl = torch.zeros_like(logps) if ref_logps is None else ESTIMATORS[o.kl](logps, ref_logps) * mask
        if iteration == 0:
            self._check_step_0(rows, mask, logps, ref_logps)
        charged = kl if o.kl_in == "reward" else torch.zeros_like(kl)
        # 4. Value each token, 5. turn rewards and values into advantages.
        values = self._values(iteration, rows, token_rewards(scores, charged, mask, self.kl.coef), mask)
        greedy = self._greedy(sampled.prompts) if o.advantage == "remax" else None
        found = advantages(o, Earned(scores, charged, self.kl.coef, mask, values, greedy))
        metrics = self._describe(sampled, rows, scores, kl.sum(1))
        if values is not None:
            metrics["val/explained_var"] = explained_variance(values, found.returns, mask)
        if ref_logps is not None:
            self.kl.update(metrics["objective/kl"], len(rows))
        learns = torch.tensor([r.ended or not o.drop_cut for r in rollouts])
        return Round(
            iteration, rows, mask, learns, logps, found.advantages, ref_logps, values, found.returns, metrics
        )

    # --- sampling ---------------------------------------------------------------------------------------

    def _sample(self, iteration: int) -> Sampled:
        """Answers to the iteration's prompts; groups that teach nothing are replaced as often as is asked."""
        o, seed = self.o, self.seed * 1_000_003 + iteration
        position, wanted, size = self.position, self.o.prompts_per_iteration, self.o.samples_per_prompt
        good: list[Group] = []
        spare: list[Group] = []
        for _ in range(o.resample + 1):
            prompts = self._prompts(position, wanted - len(good))
            position += len(prompts)
            rollouts = self.sample(prompts, seed, size)
            groups = groups_of(prompts, rollouts, self.score(rollouts), size)
            good += [group for group in groups if not (o.resample and group.equal)]
            spare += [group for group in groups if o.resample and group.equal]
            if len(good) == wanted:
                break
        # Where prompts that teach are rare, the round keeps its size with some that do not.
        chosen = [*good, *spare[: wanted - len(good)]]
        found = Sampled.of(chosen, position)
        self.rounds.save(iteration, {}, found.state())
        return found

    def sample(
        self,
        prompts: Sequence[TokenRow],
        seed: int,
        samples: int,
        model: Any = None,
        temperature: float | None = None,
    ) -> list[Rollout]:
        """Answers of the policy, or of another model; where there is an environment, whole episodes."""
        how = (
            self.o.sampling
            if temperature is None
            else self.o.sampling.model_copy(update={"temperature": temperature})
        )
        model = model if model is not None else self.policy.plain

        def turn(rows: Sequence[TokenRow], count: int) -> list[Rollout]:
            return generate(model, rows, how, self.ends, seed=seed, samples=count)

        if self.episodes is None:
            return turn(prompts, samples)
        return self.episodes.play(turn, prompts, [self._asked(row.id) for row in prompts], samples)

    def _episodes(self) -> Episodes | None:
        """How the environment is played with, where the recipe names one."""
        name, template = self.o.environment, self.policy.template
        if name is None:
            return None
        make, o = functions.find_environment(name, self.name), self.o
        return Episodes(
            name, make, o.max_turns, o.max_prompt, template.encode_reply, template.eos_id, self.ends
        )

    def score(self, rollouts: Sequence[Rollout]) -> Scores:
        """Raw scores of S answers; a reward model reads them at EOS, which is put behind a cut answer."""
        asked = [self._asked(r.id) for r in rollouts]
        return self.scorer(answered(rollouts, asked, self.ends, self.eos))

    def _asked(self, name: str) -> Prompt:
        """The text of a prompt, with the number of its pass or without."""
        plain = name.rpartition(PASS)[0]
        return self.texts[plain if plain in self.texts else name]

    def _prompts(self, position: int, count: int) -> list[TokenRow]:
        """The next prompts: a window over reshuffled passes, a pure function of (seed, position).

        The number of the pass is part of the id, so that a prompt that falls twice into a round is drawn
        anew.
        """
        total = len(self.prompts)
        places = range(position, position + count)
        passes = range(places[0] // total, places[-1] // total + 1)
        orders = {number: epoch_order(self.seed, number, total) for number in passes}
        rows = [(self.prompts[orders[p // total][p % total]], p // total) for p in places]
        return [replace(row, id=f"{row.id}{PASS}{number}") for row, number in rows]

    def _kept(self, iteration: int) -> Sampled | None:
        """What a run that was stopped had sampled in this iteration."""
        if not self.rounds.checkpoint_exists:
            return None
        try:
            found = self.rounds.latest()
        except IntegrityError as error:
            self.say(f"kept samples cannot be used, and are drawn again: {error.what}")
            return None
        if found is None or found.step != iteration:
            return None
        return Sampled.from_state(found.state, self.o.samples_per_prompt)

    # --- scores, reference, values ----------------------------------------------------------------------

    def _scaled(self, rollouts: Sequence[Rollout], raw: Tensor, first: bool) -> Tensor:
        """[S] scores in their unit, less what answers pay that are cut or nearly so.

        Raises:
            NumericsError: The scores of the first round do not differ, so there is nothing to learn.
        """
        o = self.o
        self.scale.see(raw)
        if first and self.scale.flat:
            what = f"all {len(raw)} answers of the first round score {self.scale.mean:.4g}"
            raise NumericsError(self.name, what, "look at the reward model, and at the samples it was given")
        if first and self.critic is not None:
            self.critic.mean, self.critic.std = self.scale.unit
        cut = torch.tensor([not r.ended for r in rollouts])
        long = overlong(
            torch.tensor([len(r.ids) - r.start for r in rollouts]),
            o.sampling.max_new_tokens,
            o.overlong_buffer,
        )
        return self.scale(raw) - o.missing_eos_penalty * cut - long

    def _greedy(self, prompts: Sequence[TokenRow]) -> Tensor:
        """[P] scores of the greedy answers, in the unit of the others."""
        rollouts = self.sample(prompts, 0, 1, temperature=0.0)
        raw = self.score(rollouts).values
        cut = torch.tensor([not r.ended for r in rollouts])
        return self.scale(raw) - self.o.missing_eos_penalty * cut

    def _ref_logps(self, rows: Sequence[TokenRow]) -> Tensor | None:
        if self.o.kl == "none":
            return None
        return self.per_token(rows, lambda b: self.policy.ref_logps(b, self.o.sampling.temperature))

    def _values(
        self, iteration: int, rows: Sequence[TokenRow], rewards: Tensor, mask: Tensor
    ) -> Tensor | None:
        """[S, T] of the critic, whose head is fitted to the discounted returns of the first round."""
        critic, o = self.critic, self.o
        if critic is None:
            return None
        if iteration == 0 and o.critic_init == "fit":
            returns = gae(rewards, torch.zeros_like(rewards), mask, o.gamma, lam=1.0).returns
            groups = microbatches(rows, self.budget)
            parts = ((b, torch.cat([returns[i][mask[i]] for i in group])) for group, b in groups)
            fit_values(critic, parts)
        return self.per_token(rows, critic.values)

    @torch.no_grad()
    def per_token(self, rows: Sequence[TokenRow], read: Callable[[TokenBatch], Tensor]) -> Tensor:
        """[S, T] one number per sampled token."""
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        for group, batch in microbatches(rows, self.budget):
            sizes = torch.bincount(batch.scored_in, minlength=batch.sequences).tolist()
            for i, part in zip(group, read(batch).split(sizes), strict=True):
                found[i] = part
        return _pad(found)

    def _check_step_0(
        self, rows: list[TokenRow], mask: Tensor, logps: Tensor, ref_logps: Tensor | None
    ) -> None:
        """Before the first update: ratio 1, KL 0, and the sampler's log-probs are the forward's."""
        where, temperature = f"{self.name}, step 0", self.o.sampling.temperature
        now = self.per_token(rows, lambda b: self.policy.logps(b, temperature)[0])
        if ref_logps is not None:
            checks.same(where, "log-probs of policy and reference", now[mask], ref_logps[mask], 1e-6)
        checks.same(
            where,
            "log-probs as sampled and recomputed",
            now[mask],
            logps[mask],
            checks.rounding(self.policy.plain, STEP0),
        )

    def _describe(
        self, sampled: Sampled, rows: Sequence[TokenRow], scores: Tensor, kl: Tensor
    ) -> dict[str, float]:
        """What the round looked like, under the names the field knows."""
        rollouts, raw = sampled.rollouts, sampled.scores.values
        texts = [self.ends.text(rollout) for rollout in rollouts]
        metrics = {
            "objective/scores": float(raw.mean()),
            "objective/scores_std": float(raw.std()) if len(raw) > 1 else 0.0,
            "response/length": sum(len(r.logps) for r in rollouts) / len(rollouts),
            "response/eos_rate": sum(r.ended for r in rollouts) / len(rollouts),
            "response/distinct": len(set(texts)) / len(texts),
            "response/refusal_rate": sum(map(is_refusal, texts)) / len(texts),
        }
        if self.episodes is not None:
            metrics["response/turns"] = sum(len(r.turns) for r in rollouts) / len(rollouts)
        if self.o.kl != "none":
            metrics["objective/kl"] = float(kl.mean())
            metrics["objective/kl_coef"] = self.kl.coef
            charge = self.kl.coef * kl if self.o.kl_in == "reward" else torch.zeros_like(kl)
            metrics["objective/rlhf_reward"] = float((scores - charge).mean())
        if self.o.advantage in GROUPED:
            groups = raw.view(-1, self.o.samples_per_prompt)
            metrics["group/equal"] = float((groups == groups[:, :1]).all(1).float().mean())
        for name, part in sampled.scores.parts.items():
            metrics[f"reward/{name}"] = float(part.mean())
        for source in sorted({row.source for row in rows}):
            those = [i for i, row in enumerate(rows) if row.source == source]
            metrics[f"objective/scores/{source}"] = float(raw[those].mean())
            metrics[f"response/refusal_rate/{source}"] = sum(is_refusal(texts[i]) for i in those) / len(those)
        return metrics

    # --- what lasts -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The adaptive coefficient, the reward's statistics and unit, and the prompts used up."""
        state = {"kl_coef": self.kl.coef, "scale": self.scale.state(), "position": self.position}
        if self.critic is not None:
            state |= {"critic_mean": self.critic.mean, "critic_std": self.critic.std}
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Put them back."""
        self.kl.coef, self.position = state["kl_coef"], state["position"]
        self.scale.load(state["scale"])
        if self.critic is not None:
            self.critic.mean, self.critic.std = state["critic_mean"], state["critic_std"]


def _row(rollout: Rollout, prompt: TokenRow) -> TokenRow:
    response = Response(rollout.ids, tuple(map(float, rollout.sampled)))
    return TokenRow(f"{rollout.id}/{rollout.sample}", rollout.prompt, (response,), source=prompt.source)


def _repeat(rows: Sequence[TokenRow], times: int) -> list[TokenRow]:
    return [row for row in rows for _ in range(times)]


def _pad(rows: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
