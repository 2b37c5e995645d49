"""Given rollouts for both sides of the comparisons with TRL's trainers that sample.

Our side is the stage's own collector and task, with nothing replaced but the sampler and the scorer. Old
log-probs, which the sampler would have recorded, come from plain transformers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl_sides import EOS, FULL, words

from align.config.base import SamplingOptions
from align.config.rl_options import RlOptions
from align.data.types import Prompt, TokenRow
from align.models.critic import Critic
from align.models.policy import Policy, open_policy
from align.reward.types import Scores
from align.rollout.types import Rollout
from align.stages.rl_round import Collector, Round
from align.stages.rl_task import RlTask

PROMPTS, SIZE, LIMIT, TEMPERATURE = 3, 4, 12, 0.9
ANSWERS = PROMPTS * SIZE
CUT = (3, 6)  # answers without EOS, where the case has such
NUMBERS = 1e-5  # relative, of losses, advantages, divergences and gradients


def jolt(model: nn.Module, size: float, seed: int) -> None:
    """Move every weight, in the order of their names."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, p in sorted(model.named_parameters()):
            p.add_(size * torch.randn(p.shape, generator=generator))


@dataclass
class Given:
    """Answers with fixed scores: `SIZE` to each prompt, those of a prompt together."""

    prompts: list[tuple[int, ...]]
    answers: list[tuple[int, ...]]
    scores: list[float]


def given(cut: Sequence[int] = (), lengths: tuple[int, int] = (1, LIMIT - 1)) -> Given:
    """Prompts and answers of uneven length; the answers in `cut` have no EOS."""
    draw = random.Random(4)
    prompts = [words(draw, 2, 7) for _ in range(PROMPTS)]
    answers = [(*words(draw, *lengths), EOS) for _ in range(ANSWERS)]
    answers = [(*a[:-1], a[-2]) if i in cut else a for i, a in enumerate(answers)]
    return Given(prompts, answers, [round(draw.gauss(0, 1), 3) for _ in range(ANSWERS)])


@torch.no_grad()
def plain_logps(model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """Of an answer's tokens, one row at a time."""
    logits = model(torch.tensor([[*prompt, *answer]])).logits[0] / TEMPERATURE
    logps = logits.log_softmax(-1)
    return [float(logps[len(prompt) + i - 1, token]) for i, token in enumerate(answer)]


class GivenCollector(Collector):
    """Its answers and scores are given."""

    rollouts: list[Rollout]
    raw: Tensor

    def _prompts(self, position: int, count: int) -> list[TokenRow]:
        return self.prompts

    def sample(self, *args: Any, **how: Any) -> list[Rollout]:
        """What was given."""
        return self.rollouts

    def score(self, rollouts: Sequence[Rollout]) -> Scores:
        """What was given."""
        return Scores(self.raw)


def our_task(
    base: Path, what: Given, reference: PreTrainedModel, critic: Critic | None = None, **options: Any
) -> RlTask:
    """Round 1 (round 0 refuses a policy that is not its reference) waits to be collected."""
    policy: Policy = open_policy(base, base, None, FULL)
    policy.frozen = reference
    o = RlOptions(**{
        "kind": "rl", "policy": "sft", "reward": "x", "prompts": "x", "iterations": 2, "epochs": 1,
        "prompts_per_iteration": PROMPTS, "samples_per_prompt": SIZE, "minibatches": 1,
        "missing_eos_penalty": 0.0, "reward_scale": "none", "tokens_per_microbatch": 64,
        "sampling": SamplingOptions(max_new_tokens=LIMIT, temperature=TEMPERATURE), **options,
    })  # fmt: skip
    rows = [TokenRow(f"p{n}", prompt, ()) for n, prompt in enumerate(what.prompts)]
    kept = SimpleNamespace(checkpoint_exists=False, save=lambda *_: None)
    work, reporter = SimpleNamespace(side=lambda _: kept), SimpleNamespace(note=print)
    ctx: Any = SimpleNamespace(options=o, seed=0, name="rl", work=work, reporter=reporter)
    texts = {row.id: Prompt(row.id, ()) for row in rows}
    collector = GivenCollector(ctx, policy, lambda _: Scores(torch.empty(0)), critic, rows, texts)
    owners = [row for row in rows for _ in range(SIZE)]
    collector.rollouts = [
        Rollout(row.id, i % SIZE, row.prompt, ids, tuple(plain_logps(policy.plain, row.prompt, ids)),
                "eos" if ids[-1] == EOS else "length")
        for i, (row, ids) in enumerate(zip(owners, what.answers, strict=True))
    ]  # fmt: skip
    collector.raw = torch.tensor(what.scores)
    return RlTask(ctx, collector, policy, critic)


@dataclass
class Side:
    """What both sides are compared by.

    Attributes:
        advantages: [S, T] before the loss.
        loss: Divided by its count.
        kl: Mean of the penalty, as that trainer counts it.
        gradients: By name.
    """

    advantages: Tensor
    loss: float
    kl: float
    gradients: dict[str, Tensor]


def update(task: RlTask) -> tuple[Round, float, dict[str, float]]:
    """The whole round as one minibatch: it, the loss divided by its count, and what its metrics say."""
    micros, count = task.micros(task.per_round)
    assert task.now is not None
    loss, sums = 0.0, {}
    for micro in micros:
        part = micro.loss()
        (part.total / count).backward()
        loss += float(part.total.detach()) / count
        for name, metric in part.metrics.items():
            total, units = sums.get(name, (0.0, 0.0))
            sums[name] = total + float(metric.total), units + float(metric.count or 0)
    return task.now, loss, {name: total / (units or 1) for name, (total, units) in sums.items()}
