"""One PPO round and one update against plain Python loops over plain transformers outputs.

Nothing of Align's batches, objectives or advantages is used on the right-hand side.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from align.artifacts.store import Artifact
from align.artifacts.work import Work
from align.config.base import SamplingOptions
from align.config.rl_options import RlOptions
from align.config.schema import LoraAdapter, TinyModel
from align.data.types import Prompt, TokenRow
from align.models import adapters
from align.models.critic import NAME, critic_of
from align.models.policy import REFERENCE, open_policy
from align.models.reward_model import new_reward_model, open_reward_model
from align.models.sources import materialise
from align.reward.scorers.models import model_scorer
from align.rollout.ends import Ends
from align.stages.rl_round import Collector
from align.stages.rl_task import RlTask

LORA = LoraAdapter(kind="lora", r=4, alpha=8, top_layers=2)
T, KL, GAMMA, LAM, CLIP, VCLIP, PENALTY = 0.05, 0.3, 0.9, 0.8, 0.2, 0.15, 1.5


def jolt(parameters: dict[str, torch.nn.Parameter], size: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters.values():
            p.add_(size * torch.randn(p.shape, generator=generator))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> RlTask:
    folder = tmp_path_factory.mktemp("ppo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGN_CACHE", str(folder / "cache"))
        base = materialise(TinyModel(kind="tiny", hidden=32, layers=3, heads=4))
    reward = new_reward_model(base, base, None, LORA, layers=2, seed=0)
    jolt(reward.trainable(), 0.3, 1)
    (folder / "reward").mkdir()
    reward.save(folder / "reward")
    policy = open_policy(base, base, None, LORA)
    policy.keep_reference()
    frozen = open_reward_model(Artifact(folder / "reward", None), base, None)  # type: ignore[arg-type]
    options = RlOptions(
        kind="rl", policy="sft", reward="reward", prompts="x", iterations=2, prompts_per_iteration=4,
        samples_per_prompt=3, epochs=1, minibatches=2, sampling=SamplingOptions(max_new_tokens=14,
        temperature=T), kl_coef=KL, gamma=GAMMA, lam=LAM, clip=CLIP, value_clip=VCLIP,
        missing_eos_penalty=PENALTY, tokens_per_microbatch=40,
    )  # fmt: skip
    prompts = [TokenRow(f"p{n}", tuple(range(20, 22 + n)), (), source="x") for n in range(6)]
    work, reporter = Work(folder / "work", "k" * 64), SimpleNamespace(note=print)
    ctx: Any = SimpleNamespace(options=options, seed=3, name="ppo", work=work, reporter=reporter)
    critic = critic_of(frozen)
    texts = {row.id: Prompt(row.id, ()) for row in prompts}
    scorer = model_scorer(frozen, frozen.budget(40))
    collector = Collector(ctx, policy, scorer, critic, prompts, texts)
    task = RlTask(ctx, collector, policy, critic)
    collector.collect(0)
    jolt(policy.trainable(), 0.05, 2)  # the second round is sampled by a policy that has moved
    jolt(task.critic.trainable(), 0.05, 3)
    # A token that stands in some of the second round's answers plays EOS: these end by it, the others are
    # cut.
    answers = [set(row.responses[0].ids) for row in collector.collect(1).rows]
    half = len(answers) / 2
    collector.eos = min(sorted(set.union(*answers)), key=lambda t: abs(sum(t in a for a in answers) - half))
    collector.ends = Ends((collector.eos,), (), str)
    collector.rounds = Work(folder / "anew", "k" * 64)  # what is kept of the round was drawn with another EOS
    return task


@torch.no_grad()
def token_logps(model: PreTrainedModel, row: TokenRow) -> list[float]:
    ids = [*row.prompt, *row.responses[0].ids]
    logps = (model(input_ids=torch.tensor([ids])).logits[0] / T).log_softmax(-1)
    return [float(logps[len(row.prompt) + i - 1, token]) for i, token in enumerate(row.responses[0].ids)]


@torch.no_grad()
def head_outputs(task: RlTask, adapter: str | None, ids: list[int]) -> list[float]:
    """The classifier's number at every position."""
    model: Any = task.critic.model.model
    if adapter is None:
        return [
            float(x)
            for x in task.critic.model.plain.score(
                task.critic.model.plain.model(torch.tensor([ids])).last_hidden_state
            )[0]
        ]
    with adapters.switched(model, adapter):
        return head_outputs(task, None, ids)


def expected_round(task: RlTask, rows: list[TokenRow]) -> dict[str, list[list[float]]]:
    """Old log-probs, values, advantages (whitened) and returns of each answer, token by token."""
    eos = task.collector.eos
    logps = [token_logps(task.policy.plain, row) for row in rows]
    with adapters.switched(task.policy.model, REFERENCE):
        ref = [token_logps(task.policy.plain, row) for row in rows]
    values, advantages, returns = [], [], []
    for row, pi, q in zip(rows, logps, ref, strict=True):
        ids = list(row.responses[0].ids)
        ended = ids[-1] == eos
        full = [*row.prompt, *ids] if ended else [*row.prompt, *ids, eos]
        score = (
            head_outputs(task, None, full)[-1] - task.collector.scale.unit[0]
        ) / task.collector.scale.unit[1] - (0.0 if ended else PENALTY)
        reward = [-KL * (a - b) for a, b in zip(pi, q, strict=True)]
        reward[-1] += score
        raw = head_outputs(task, NAME, [*row.prompt, *ids])
        value = [(raw[len(row.prompt) + i - 1] - task.critic.mean) / task.critic.std for i in range(len(ids))]
        advantage = [0.0] * len(ids)
        for t in reversed(range(len(ids))):
            last = t == len(ids) - 1
            delta = reward[t] + (0.0 if last else GAMMA * value[t + 1]) - value[t]
            advantage[t] = delta + (0.0 if last else GAMMA * LAM * advantage[t + 1])
        values.append(value)
        returns.append([a + v for a, v in zip(advantage, value, strict=True)])
        advantages.append(advantage)
    flat = [a for line in advantages for a in line]
    mean = sum(flat) / len(flat)
    std = math.sqrt(sum((a - mean) ** 2 for a in flat) / len(flat) + 1e-8)
    whitened = [[(a - mean) / std for a in line] for line in advantages]
    return {"logps": logps, "values": values, "advantages": whitened, "returns": returns}


def test_round_equals_plain_loops(task: RlTask) -> None:
    now = task.collector.collect(1)
    want = expected_round(task, now.rows)
    for name, lines in want.items():
        got = getattr(now, name)
        for s, line in enumerate(lines):
            assert now.mask[s].sum() == len(line)
            assert got[s][now.mask[s]].tolist() == pytest.approx(line, rel=1e-4, abs=1e-4), (name, s)
    ended = [row.responses[0].ids[-1] == task.collector.eos for row in now.rows]
    assert set(ended) == {True, False}, "the test should see both kinds"
    assert now.metrics["response/eos_rate"] == pytest.approx(sum(ended) / len(ended))
    assert now.metrics["response/length"] == pytest.approx(
        sum(len(r.responses[0].ids) for r in now.rows) / len(now.rows)
    )


def test_update_loss_equals_plain_loops(task: RlTask) -> None:
    """The clipped losses of one minibatch after the policy and the critic have moved away from the round."""
    step = task.per_round  # first update of the second round
    micros, count = task.micros(step)
    now = task.now
    assert now is not None
    jolt(task.policy.trainable(), 0.05, 5)
    jolt(task.critic.trainable(), 0.05, 6)
    micros = list(micros)
    names = [name for micro in micros for name in micro.names]
    total = sum(float(micro.loss().total.detach()) for micro in micros)
    chosen = [i for i, row in enumerate(now.rows) if row.id in names]
    want, tokens, clipped = 0.0, 0, 0
    for i in chosen:
        row = now.rows[i]
        new, mask = token_logps(task.policy.plain, row), now.mask[i]
        raw = head_outputs(task, NAME, [*row.prompt, *row.responses[0].ids])
        old, adv = now.logps[i][mask].tolist(), now.advantages[i][mask].tolist()
        v_old, ret = now.values[i][mask].tolist(), now.returns[i][mask].tolist()
        for t in range(len(new)):
            ratio = math.exp(new[t] - old[t])
            cut = min(max(ratio, 1 - CLIP), 1 + CLIP)
            want -= min(ratio * adv[t], cut * adv[t])
            clipped += abs(ratio - cut) > 1e-7
            v = (raw[len(row.prompt) + t - 1] - task.critic.mean) / task.critic.std
            v_cut = min(max(v, v_old[t] - VCLIP), v_old[t] + VCLIP)
            want += 0.5 * max((v - ret[t]) ** 2, (v_cut - ret[t]) ** 2)
            tokens += 1
    assert len(chosen) == 6
    assert count == tokens
    assert 0 < clipped < tokens, "the test should see clipped and unclipped tokens"
    assert total == pytest.approx(want, rel=1e-4)


def test_prompts_are_a_pure_function_and_none_is_left_out(task: RlTask) -> None:
    ids = [row.id for iteration in range(3) for row in task.collector._prompts(4 * iteration, 4)]
    assert len(set(ids)) == 12, "a prompt that comes again is drawn anew"
    seen = [name.split(" @")[0] for name in ids]
    assert sorted(seen[:6]) == sorted(f"p{n}" for n in range(6)), "the first pass holds each prompt once"
    assert sorted(seen[6:]) == sorted(f"p{n}" for n in range(6)), "the second pass too"
    assert seen[:6] != seen[6:]
