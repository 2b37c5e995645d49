"""Answers of a policy as data: sampled, scored, and the best kept, or all of them as rankings.

The rows are written in the project's own forms (docs/data.md), so that any stage reads them:
`data: {stage: <name>}`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from align.artifacts.row_log import RowLog
from align.artifacts.store import ROWS
from align.config.rl_options import SampleOptions
from align.data import cards, tokenize
from align.data.fields import NO_TEXT
from align.data.types import TokenRow
from align.errors import DataError, Interrupted
from align.models.policy import load_template, open_policy
from align.reward.facts import check_facts
from align.reward.open import Models, open_scorer
from align.rollout.ends import Ends
from align.rollout.generate import generate
from align.rollout.types import Rollout
from align.stages.answered import answered
from align.stages.base import Stage, starting_point

CHUNK = 48  # answers; a chunk is always sampled as a whole, so that a resumed stage computes the same bits


class Sample(Stage[SampleOptions]):
    """Sample answers to prompts, score them, keep what is asked for."""

    kind = "sample"

    def prepare(self) -> int:
        """Tokenise the prompts."""
        o = self.ctx.options
        self.template = load_template(self.ctx.base, self.ctx.recipe.model.template)
        data = cards.load(o.prompts, "prompts", "train", max_drop=o.max_drop)
        data.rows = data.rows[: o.limit]
        self.texts = {row.id: row for row in data.rows}
        if o.reward is not None:
            check_facts(o.reward, data.rows, self.ctx.name)
        self.prompts = tokenize.prompts(
            data, self.template, max_prompt=o.max_prompt, max_drop=o.max_drop
        ).rows
        return len(self._chunks())

    def run(self, out: Path) -> dict[str, Any]:
        """Sample what is missing, then write the rows."""
        ctx, o = self.ctx, self.ctx.options
        log = RowLog(ctx.work.folder / ROWS)
        self._sample(log)
        rows = [self._row(prompt, log[prompt.id]) for prompt in self.prompts]
        kept = [row for row in rows if row is not None]
        if not kept:
            what = f"none of {len(rows)} prompts has an answer to keep"
            raise DataError(f"stages.{ctx.name}", what, "lower min_score, or raise samples_per_prompt")
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in kept]
        (out / ROWS).write_text("".join(lines), encoding="utf-8")
        scores = torch.tensor([score for prompt in self.prompts for score in log[prompt.id]["scores"]])
        answers = [text for prompt in self.prompts for text in log[prompt.id]["answers"]]
        return {
            "kind": self.kind,
            "steps": len(self._chunks()),
            "prompts": len(rows),
            "rows": len(kept),
            "answers": len(answers),
            "left_out": len(answers) - sum(len(self._usable(log[prompt.id])) for prompt in self.prompts),
            "different": len(set(answers)) / len(answers),
            "scores": {"mean": float(scores.mean()), "best": float(scores.view(len(rows), -1).amax(1).mean())}
            if o.reward is not None
            else None,
        }

    def _chunks(self) -> list[list[TokenRow]]:
        size = max(1, CHUNK // self.ctx.options.samples_per_prompt)
        return [self.prompts[i : i + size] for i in range(0, len(self.prompts), size)]

    def _sample(self, log: RowLog) -> None:
        """Chunk by chunk, what the log does not hold."""
        ctx, o = self.ctx, self.ctx.options
        chunks = self._chunks()
        missing = [i for i, chunk in enumerate(chunks) if any(row.id not in log for row in chunk)]
        if not missing:
            return
        policy = open_policy(
            starting_point(ctx, o.policy), ctx.base, ctx.recipe.model.template, None, dtype=ctx.dtype
        )
        scorer = None
        if o.reward is not None:
            template = ctx.recipe.model.template
            scorer = open_scorer(
                o.reward, Models(ctx.inputs, ctx.base, template, ctx.dtype, o.tokens_per_microbatch)
            )
        eos, ends = self.template.eos_id, Ends.of(policy.plain, self.template, o.sampling.stop)
        for number in missing:
            chunk, size = chunks[number], o.samples_per_prompt
            rollouts = generate(policy.plain, chunk, o.sampling, ends, seed=ctx.seed, samples=size)
            scores = [0.0] * len(rollouts)
            if scorer is not None:
                asked = [self.texts[row.id] for row in chunk for _ in range(size)]
                scores = scorer(answered(rollouts, asked, ends, eos)).values.tolist()
            log.append(
                [
                    (row.id, _told(rollouts[i * size :][:size], scores[i * size :][:size], ends))
                    for i, row in enumerate(chunk)
                ]
            )
            ctx.reporter.step(number + 1, len(chunks), {}, sum(len(r.ids) for r in rollouts))
            if ctx.stop() and number != missing[-1]:
                raise Interrupted(
                    ctx.name, f"answers to {len(log)} prompts are kept", "the same command resumes"
                )

    def _row(self, prompt: TokenRow, found: dict[str, Any]) -> dict[str, Any] | None:
        """One line of the data set; None where nothing of the prompt is kept."""
        o, usable = self.ctx.options, self._usable(found)
        turns = [{"role": turn.role, "content": turn.content} for turn in self.texts[prompt.id].messages]
        if o.keep == "ranking":
            usable = _different(usable, found)
            if len({found["scores"][i] for i in usable}) < 2:
                return None  # nothing to prefer
            return {
                "id": prompt.id,
                "prompt": turns,
                "answers": [found["answers"][i] for i in usable],
                "ratings": [found["scores"][i] for i in usable],
            }
        if not usable:
            return None
        best = max(usable, key=lambda i: (found["scores"][i], -i))
        return {
            "id": prompt.id,
            "messages": [*turns, {"role": "assistant", "content": found["answers"][best]}],
        }

    def _usable(self, found: dict[str, Any]) -> list[int]:
        """Answers that a data set can hold: with text, without what readers refuse, ended, good enough."""
        o = self.ctx.options
        return [
            i
            for i, text in enumerate(found["answers"])
            if text.strip()
            and not NO_TEXT.search(text)
            and (found["ended"][i] or not o.drop_cut)
            and (o.min_score is None or found["scores"][i] >= o.min_score)
        ]


def _told(rollouts: Sequence[Rollout], scores: Sequence[float], ends: Ends) -> dict[str, Any]:
    """What the log keeps of the answers to one prompt."""
    return {
        "answers": [ends.text(r) for r in rollouts],
        "ended": [r.ended for r in rollouts],
        "scores": list(scores),
    }


def _different(chosen: Sequence[int], found: dict[str, Any]) -> list[int]:
    """The first of answers with equal texts."""
    seen: set[str] = set()
    kept = []
    for i in chosen:
        if found["answers"][i] not in seen:
            seen.add(found["answers"][i])
            kept.append(i)
    return kept


STAGE = Sample
