"""Proximal policy optimisation with a critic: the stage around the rounds of `ppo_task`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.config.schema import NoAdapter
from align.config.stages import PpoOptions
from align.data import cards, tokenize
from align.models.critic import critic_of
from align.models.policy import load_template
from align.models.reward_model import open_reward_model
from align.stages.base import Stage, starting_point
from align.stages.opening import policy_from
from align.stages.ppo_task import PpoTask
from align.training.loop import train


class Ppo(Stage[PpoOptions]):
    """Raise the reward of sampled answers while staying near the policy it starts from."""

    kind = "ppo"

    def prepare(self) -> int:
        """Tokenise the training prompts."""
        o = self.ctx.options
        self.template = load_template(self.ctx.base, self.ctx.recipe.model.template)
        data = cards.load(o.prompts, "prompts", "train", max_drop=o.max_drop)
        self.prompts = tokenize.prompts(data, self.template, max_prompt=o.max_prompt, max_drop=o.max_drop)
        return o.iterations * o.epochs * o.minibatches

    def run(self, out: Path) -> dict[str, Any]:
        """Train and write a policy."""
        ctx, o = self.ctx, self.ctx.options
        template = ctx.recipe.model.template
        adapter = ctx.recipe.adapter
        policy = policy_from(ctx, starting_point(ctx, o.policy))
        policy.keep_reference()
        reward = open_reward_model(ctx.inputs[o.reward], ctx.base, template, ctx.dtype)
        critic = critic_of(reward, adapter.freeze if isinstance(adapter, NoAdapter) else ())
        task = PpoTask(ctx, policy, reward, critic, self.prompts.rows)
        every = o.save_every * o.epochs * o.minibatches
        train(task, o, ctx.work, ctx.reporter, ctx.stop, seed=ctx.seed, every=every)
        policy.save(out)
        self._samples(task, out)
        rounds = ctx.work.metrics.rows()
        return {
            "kind": self.kind,
            "steps": task.total,
            "iterations": o.iterations,
            "samples": o.iterations * o.prompts_per_iteration * o.samples_per_prompt,
            "trainable_parameters": sum(p.numel() for g in task.groups for p in g.parameters.values()),
            "reward_scale": {"mean": task.mean, "std": task.std},
            "before": _brief(rounds[0]),
            "after": _brief(rounds[-1]),
        }

    def _samples(self, task: PpoTask, out: Path) -> None:
        """A dozen prompts, answered by the reference and by the trained policy with the same draws."""
        rows = task.prompts[:: max(1, len(task.prompts) // 12)][:12]
        after = task.sample(rows, self.ctx.seed, samples=1)
        with task.policy.reference() as reference:
            before = task.sample(rows, self.ctx.seed, samples=1, model=reference)
        scores = [task.score(part).tolist() for part in (before, after)]
        eos, decode = self.template.eos_id, self.template.decode
        with (out / "samples.jsonl").open("w") as file:
            for i, row in enumerate(rows):
                line = {
                    "id": row.id,
                    "source": row.source,
                    "prompt": decode(list(row.prompt)),
                    "before": decode(list(before[i].text_ids(eos))),
                    "after": decode(list(after[i].text_ids(eos))),
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


STAGE = Ppo
