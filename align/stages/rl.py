"""Reinforcement learning on sampled answers: the stage around the rounds of `rl_round` and `rl_task`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align.config.rl_options import RlOptions, critic_source
from align.config.schema import NoAdapter
from align.data import cards, tokenize
from align.data.types import TokenRow
from align.models.critic import Critic, critic_of
from align.models.policy import load_template
from align.reward.facts import check_facts
from align.reward.open import Models, open_scorer
from align.reward.score import answer_row
from align.rollout.types import Rollout
from align.stages.base import Stage, starting_point
from align.stages.opening import fresh_critic, policy_from
from align.stages.rl_round import Collector
from align.stages.rl_task import RlTask
from align.training import checks
from align.training.loop import train


class Rl(Stage[RlOptions]):
    """Raise the reward of sampled answers while staying near the policy it starts from."""

    kind = "rl"

    def prepare(self) -> int:
        """Tokenise the training prompts, and the conversations to keep imitating."""
        o = self.ctx.options
        self.template = load_template(self.ctx.base, self.ctx.recipe.model.template)
        data = cards.load(o.prompts, "prompts", "train", max_drop=o.max_drop)
        self.texts = {row.id: row for row in data.rows}
        check_facts(o.reward, data.rows, self.ctx.name)
        self.prompts = tokenize.prompts(data, self.template, max_prompt=o.max_prompt, max_drop=o.max_drop)
        self.imitated: Sequence[TokenRow] = ()
        if o.ptx_data is not None:
            talks = cards.load(o.ptx_data, "conversations", "train", max_drop=o.max_drop)
            self.imitated = tokenize.conversations(
                talks,
                self.template,
                max_prompt=o.max_prompt,
                max_answer=o.sampling.max_new_tokens,
                max_drop=o.max_drop,
            ).rows
        return o.iterations * o.epochs * o.minibatches

    def run(self, out: Path) -> dict[str, Any]:
        """Train and write a policy."""
        ctx, o = self.ctx, self.ctx.options
        template = ctx.recipe.model.template
        policy = policy_from(ctx, starting_point(ctx, o.policy))
        if o.kl != "none":
            policy.keep_reference()
        models = Models(ctx.inputs, ctx.base, template, ctx.dtype, o.tokens_per_microbatch)
        scorer = open_scorer(o.reward, models)
        for reward in models.opened.values():
            checks.reward_alone_equals_batched(reward, self._probe(reward.template.eos_id))
        critic = self._critic(models) if o.advantage == "gae" else None
        collector = Collector(ctx, policy, scorer, critic, self.prompts.rows, self.texts)
        task = RlTask(ctx, collector, policy, critic, self.imitated)
        every = o.save_every * o.epochs * o.minibatches
        train(task, o, ctx.work, ctx.reporter, ctx.stop, seed=ctx.seed, every=every)
        policy.save(out)
        self._samples(collector, out)
        rounds = ctx.work.metrics.rows()
        mean, std = collector.scale.unit
        return {
            "kind": self.kind,
            "advantage": o.advantage,
            "steps": task.total,
            "iterations": o.iterations,
            "samples": o.iterations * o.prompts_per_iteration * o.samples_per_prompt,
            "trainable_parameters": sum(p.numel() for g in task.groups for p in g.parameters.values()),
            "reward_scale": {"mean": mean, "std": std},
            "before": _brief(rounds[0]),
            "after": _brief(rounds[-1]),
        }

    def _probe(self, eos: int) -> list[TokenRow]:
        """Answers of several lengths, which a reward model must score alike alone and in a batch."""
        return [
            answer_row(row.id, row.prompt, row.prompt[:n], eos) for n, row in enumerate(self.prompts.rows[:4])
        ]

    def _critic(self, models: Models) -> Critic:
        """The critic starts from a reward model, or from the policy with a new head where there is none."""
        ctx, o = self.ctx, self.ctx.options
        adapter, name = ctx.recipe.adapter, critic_source(o)
        if name is None:
            return fresh_critic(ctx, starting_point(ctx, o.policy))
        frozen = adapter.freeze if isinstance(adapter, NoAdapter) else ()
        return critic_of(models.open(name), frozen)

    def _samples(self, collector: Collector, out: Path) -> None:
        """A dozen prompts, answered before and after with the same draws; before: by the reference."""
        rows = collector.prompts[:: max(1, len(collector.prompts) // 12)][:12]
        after = collector.sample(rows, self.ctx.seed, samples=1)
        before = after
        if self.ctx.options.kl != "none":
            with collector.policy.reference() as reference:
                before = collector.sample(rows, self.ctx.seed, samples=1, model=reference)
        scores = [collector.score(part).values.tolist() for part in (before, after)]
        decode = self.template.decode

        def text(rollout: Rollout) -> str:  # of an episode all turns, with the tokens that open and end them
            return decode(list(rollout.ids)) if rollout.heard else collector.ends.text(rollout)

        with (out / "samples.jsonl").open("w") as file:
            for i, row in enumerate(rows):
                line = {
                    "id": row.id,
                    "source": row.source,
                    "prompt": decode(list(row.prompt)),
                    "before": text(before[i]),
                    "after": text(after[i]),
                    "score_before": scores[0][i],
                    "score_after": scores[1][i],
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _brief(row: Mapping[str, float]) -> dict[str, float]:
    names = (
        "objective/scores",
        "objective/kl",
        "response/length",
        "response/eos_rate",
        "response/refusal_rate",
    )
    return {name: row[name] for name in names if name in row}


STAGE = Rl
