"""Compare policies on held-out prompts: what was optimised, what was not, and what controls would get."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.config.stages import EvaluateOptions
from align.data import cards, tokenize
from align.data.types import Prompt, Response, TokenRow
from align.engine.batch import TokenBatch, by_row
from align.errors import Interrupted
from align.evals import compare
from align.models.policy import Policy, load_template, open_policy
from align.reward.baselines import BagOfWords
from align.reward.facts import check_facts
from align.reward.open import Models, open_scorer
from align.reward.types import Scorer
from align.rollout.ends import Ends
from align.rollout.generate import generate
from align.stages.answer_logps import summed
from align.stages.answered import answered, plain
from align.stages.base import Stage, starting_point

CONSTANT = "constant refusal"


@dataclass
class Answers:
    """What one policy answers to all prompts, in their order."""

    texts: list[str]
    ids: list[list[int]]
    ended: list[bool]
    kl: list[float] | None = None


class Evaluate(Stage[EvaluateOptions]):
    """Answer held-out prompts with each policy and measure, beside controls."""

    kind = "evaluate"

    def prepare(self) -> int:
        """Tokenise the held-out prompts."""
        o = self.ctx.options
        self.template = load_template(self.ctx.base, self.ctx.recipe.model.template)
        data = cards.load(o.prompts, "prompts", "test")
        data.rows = _first_of_each(data.rows, o.limit)
        self.texts = {row.id: row for row in data.rows}
        check_facts(o.reward, data.rows, self.ctx.name)
        self.prompts = tokenize.prompts(data, self.template, max_prompt=o.max_prompt, max_drop=0.0).rows
        self.judge = cards.load(o.judge, "rankings", "train").rows if o.judge is not None else None
        return len(o.policies)

    def run(self, out: Path) -> dict[str, Any]:
        """Sample, score, compare."""
        answers = self._answers()
        controls = [CONSTANT]
        if self.ctx.options.best_of > 1:
            name, best = self._best_of()
            answers[name] = best
            controls.append(name)
        refusal = self.ctx.options.refusal_text
        eos = self.template.eos_id
        constant = self.template.encode_answer(refusal)
        count = len(self.prompts)
        answers[CONSTANT] = Answers([refusal] * count, [constant] * count, [constant[-1] == eos] * count)
        rewards = self._rewards(answers)
        judge = self._judge(answers)
        self._write_samples(out, answers, rewards, judge)
        measured = {
            name: compare.Measured(a.texts, a.ended, rewards[name], judge[name] if judge else None, a.kl)
            for name, a in answers.items()
        }
        return {
            "kind": self.kind,
            "steps": len(self.ctx.options.policies),
            "baseline": self.ctx.options.policies[0],
            "policies": self.ctx.options.policies,
            "controls": controls,
            "temperature": self.ctx.options.sampling.temperature,
            "max_new_tokens": self.ctx.options.sampling.max_new_tokens,
            "sources": compare.by_source(
                measured,
                [row.source for row in self.prompts],
                self.ctx.options.policies[0],
                {source: cards.is_sensitive(source) for source in {row.source for row in self.prompts}},
                self.ctx.seed,
            ),
        }

    def _answers(self) -> dict[str, Answers]:
        """Each policy's answers; those of finished policies are kept, so a killed evaluation goes on."""
        ctx, o = self.ctx, self.ctx.options
        saved = ctx.work.latest()
        done: dict[str, Any] = saved.state["answers"] if saved else {}
        ctx.work.metrics.truncate(0)
        for number, name in enumerate(o.policies):
            if name not in done:
                done[name] = vars(self._sample(name, o.policies[0]))
                ctx.work.save(number + 1, {}, {"answers": done})
            ctx.reporter.step(number + 1, len(o.policies), {}, sum(map(len, done[name]["ids"])))
            if ctx.stop() and number + 1 < len(o.policies):
                raise Interrupted(
                    ctx.name, f"answers of {number + 1} policies are saved", "the same command resumes"
                )
        return {name: Answers(**fields) for name, fields in done.items()}

    def _sample(self, name: str, baseline: str) -> Answers:
        ctx, o = self.ctx, self.ctx.options
        policy = self._open(name)
        ends = Ends.of(policy.plain, self.template, o.sampling.stop)
        rollouts = generate(policy.plain, self.prompts, o.sampling, ends, seed=ctx.seed)
        texts = [ends.text(rollout) for rollout in rollouts]
        kl = None
        if name != baseline:
            rows = [TokenRow(r.id, r.prompt, (Response(r.ids, (1.0,) * len(r.ids)),)) for r in rollouts]
            kl = [
                a - b
                for a, b in zip(
                    self._logps(policy, rows), self._logps(self._open(baseline), rows), strict=True
                )
            ]
        return Answers(texts, [list(r.ids) for r in rollouts], [r.ended for r in rollouts], kl)

    def _best_of(self) -> tuple[str, Answers]:
        """The baseline's best of n answers: what sampling alone reaches, at a known distance.

        Its KL from the baseline is log n - (n - 1) / n where no two scores are equal (arXiv:2009.01325,
        App. G.3).
        """
        ctx, o = self.ctx, self.ctx.options
        n, name, eos = o.best_of, o.policies[0], self.template.eos_id
        model = self._open(name).plain
        ends = Ends.of(model, self.template, o.sampling.stop)
        rollouts = generate(model, self.prompts, o.sampling, ends, seed=ctx.seed, samples=n)
        asked = [self.texts[p.id] for p in self.prompts for _ in range(n)]
        scores = self._scorer()(answered(rollouts, asked, ends, eos)).values
        best = scores.view(len(self.prompts), n).argmax(1)
        chosen = [rollouts[i * n + k] for i, k in enumerate(best.tolist())]
        texts = [ends.text(rollout) for rollout in chosen]
        kl = [math.log(n) - (n - 1) / n] * len(chosen)
        return f"{name}, best of {n}", Answers(
            texts, [list(r.ids) for r in chosen], [r.ended for r in chosen], kl
        )

    def _open(self, name: str) -> Policy:
        ctx = self.ctx
        start, template = starting_point(ctx, name), ctx.recipe.model.template
        return open_policy(start, ctx.base, template, None, dtype=ctx.dtype)

    def _logps(self, policy: Policy, rows: Sequence[TokenRow]) -> list[float]:
        """Log-prob of each row's answer at the sampling temperature."""
        o = self.ctx.options

        def read(batch: TokenBatch) -> Tensor:
            return summed(policy.logps(batch, o.sampling.temperature or 1.0)[0], batch)

        return torch.cat(by_row(rows, policy.budget(o.tokens_per_microbatch), read)).tolist()

    def _scorer(self) -> Scorer:
        ctx, o = self.ctx, self.ctx.options
        template = ctx.recipe.model.template
        return open_scorer(
            o.reward, Models(ctx.inputs, ctx.base, template, ctx.dtype, o.tokens_per_microbatch)
        )

    def _rewards(self, answers: dict[str, Answers]) -> dict[str, list[float]]:
        scorer, eos = self._scorer(), self.template.eos_id
        found = {}
        for name, a in answers.items():
            parts = zip(self.prompts, a.texts, a.ids, a.ended, strict=True)
            rows = [plain(self.texts[p.id], p, text, ids, ended, eos) for p, text, ids, ended in parts]
            found[name] = scorer(rows).values.tolist()
        return found

    def _judge(self, answers: dict[str, Answers]) -> dict[str, list[float]] | None:
        """A judge that nothing was optimised against: a bag of words on people's ratings."""
        if self.judge is None:
            return None
        judge = BagOfWords().fit(self.judge)
        asked = [self.texts[row.id].messages[-1].content for row in self.prompts]
        return {name: [float(x) for x in judge.score(asked, a.texts)] for name, a in answers.items()}

    def _write_samples(
        self,
        out: Path,
        answers: dict[str, Answers],
        rewards: dict[str, list[float]],
        judge: dict[str, list[float]] | None,
    ) -> None:
        with (out / "samples.jsonl").open("w") as file:
            for i, row in enumerate(self.prompts):
                line = {
                    "id": row.id,
                    "source": row.source,
                    "prompt": self.texts[row.id].messages[-1].content,
                    "answers": {name: a.texts[i] for name, a in answers.items()},
                    "rewards": {name: scores[i] for name, scores in rewards.items()},
                    "judge": {name: scores[i] for name, scores in judge.items()} if judge else {},
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _first_of_each(rows: Sequence[Prompt], limit: int | None) -> list[Prompt]:
    """At most `limit` rows of each source."""
    kept: list[Prompt] = []
    seen: dict[str, int] = {}
    for row in rows:
        seen[row.source] = seen.get(row.source, 0) + 1
        if limit is None or seen[row.source] <= limit:
            kept.append(row)
    return kept


STAGE = Evaluate
