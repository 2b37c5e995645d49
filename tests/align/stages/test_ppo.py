"""A round of PPO on scripted answers, small enough to be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from align.config.stages import PpoOptions
from align.data.types import TokenRow
from align.engine.batch import Budget, TokenBatch
from align.errors import NumericsError
from align.rollout.types import Rollout
from align.stages import ppo_task
from align.stages.ppo_task import PpoTask

EOS = 2
LOGP = -1.0  # of every token as it was sampled


class Scripted(PpoTask):
    """Answers are given, a reward is the number of tokens up to EOS, a value 0, and KL as wanted.

    Attributes:
        lengths: Tokens of each round's answers; each ends in EOS.
        drift: Log-ratio of each token to the reference, by round.
        seeds: What `sample` was called with.
    """

    def __init__(self, lengths: list[list[int]], drift: Sequence[float] = (), **options: Any) -> None:
        self.lengths, self.drift = lengths, [*drift, *[0.0] * len(lengths)]
        self.seeds: list[int] = []
        count = len(lengths[0])
        o = PpoOptions(
            **{
                "kind": "ppo",
                "policy": "sft",
                "reward": "rm",
                "prompts": "x",
                "iterations": len(lengths),
                "prompts_per_iteration": count // 2,
                "samples_per_prompt": 2,
                "epochs": 2,
                "minibatches": 2,
                "critic_init": "reward",
                "gamma": 1.0,
                "lam": 1.0,
                "whiten": False,
                **options,
            }  # fmt: skip
        )
        plain = SimpleNamespace(dtype=torch.float32)
        policy = SimpleNamespace(
            plain=plain,
            template=SimpleNamespace(eos_id=EOS, decode=str),
            trainable=dict,
            budget=lambda tokens: Budget(tokens if tokens != "auto" else 4096),
            logps=lambda b, t, *_: (torch.full((len(b.targets),), LOGP), None),
            ref_logps=lambda b, t: torch.full((len(b.targets),), LOGP - self.drift[len(self.seeds) - 1]),
        )
        reward = SimpleNamespace(
            plain=plain, scores=lambda b: (b.spans[:, 3] - b.spans[:, 2]).float(), steps=None
        )
        critic = SimpleNamespace(
            trainable=dict, mean=0.0, std=1.0, values=lambda b: torch.zeros(len(b.targets))
        )
        prompts = [TokenRow(f"p{n}", (7,) * (n + 1), (), source=f"s{n % 2}") for n in range(count // 2)]
        ctx = SimpleNamespace(options=o, seed=options.get("seed", 0), name="ppo")
        super().__init__(ctx, policy, reward, critic, prompts)  # type: ignore[arg-type]

    def sample(
        self, prompts: Sequence[TokenRow], seed: int, samples: int, model: Any = None
    ) -> list[Rollout]:
        """The script's answers of the round."""
        lengths = self.lengths[len(self.seeds)]
        self.seeds.append(seed)
        owners = [(p, k) for p in prompts for k in range(samples)]
        return [
            Rollout(p.id, k, p.prompt, (*(5,) * (n - 1), EOS), (LOGP,) * n, "eos")
            for (p, k), n in zip(owners, lengths, strict=True)
        ]


def test_the_unit_of_the_reward_is_that_of_round_one_for_good() -> None:
    task = Scripted([[3, 5, 3, 5], [9, 9, 8, 9]])
    first = task.collect(0)
    unit = (4 / 3) ** 0.5  # mean 4; squares of -1, 1, -1, 1 over 3
    assert (task.mean, task.std) == (4.0, pytest.approx(unit))
    assert (task.critic.mean, task.critic.std) == (task.mean, task.std), "a value is in the reward's unit"
    assert first.advantages[:2, 0].tolist() == pytest.approx([-1 / unit, 1 / unit])
    second = task.collect(1)
    assert task.mean == 4.0
    assert second.advantages[0, 0].item() == pytest.approx((9 - 4) / unit)


def test_a_reward_is_taken_as_it_is_where_that_is_asked_for() -> None:
    task = Scripted([[3, 5, 3, 5]], normalise_reward=False)
    now = task.collect(0)
    assert (task.mean, task.std, task.critic.mean, task.critic.std) == (0.0, 1.0, 0.0, 1.0)
    # Without values, discount and KL each token's advantage is the score; without whitening it stays so.
    assert now.advantages.tolist() == [[3.0] * 3 + [0.0] * 2, [5.0] * 5] * 2


def test_the_coefficient_adapts_after_its_round_by_the_number_of_answers() -> None:
    script: dict[str, Any] = {"kl_coef": 0.1, "kl_target": 0.5, "kl_horizon": 10, "normalise_reward": False}
    task = Scripted([[2, 4, 2, 4]] * 3, drift=[0.0, 1.0], **script)
    first = task.collect(0)
    assert first.metrics["objective/kl_coef"] == 0.1
    low = 0.1 * (1 - 0.2 * 4 / 10)  # KL 0 is below the target; four answers
    assert task.kl.coef == pytest.approx(low)
    second = task.collect(1)
    assert second.metrics["objective/kl_coef"] == pytest.approx(low)
    assert second.metrics["objective/kl"] == pytest.approx(3.0), "nats per answer, not per token"
    # Two tokens of one nat each: both penalties count at the first token, one at the last.
    assert second.advantages[0, :2].tolist() == pytest.approx([2 - 2 * low, 2 - low])
    assert second.metrics["objective/rlhf_reward"] == pytest.approx(3.0 - 3.0 * low)
    assert task.kl.coef == pytest.approx(low * (1 + 0.2 * 4 / 10))


def test_minibatches_are_drawn_anew_in_every_pass_and_round() -> None:
    task = Scripted([[2, 3] * 6] * 2)
    passes: list[list[int]] = []
    for step in range(task.total):
        names = {name for micro in task.micros(step)[0] for name in micro.names}
        assert task.now is not None
        places = [place for place, row in enumerate(task.now.rows) if row.id in names]
        passes = [*passes[:-1], passes[-1] + places] if step % 2 else [*passes, places]
    assert [sorted(places) for places in passes] == [list(range(12))] * 4, "each answer once in a pass"
    assert len({tuple(places[:6]) for places in passes}) == 4, "no two passes cut alike"


def test_what_is_drawn_depends_on_the_seed_and_the_round() -> None:
    seeds = set()
    for seed in (0, 1):
        task = Scripted([[3, 5, 3, 5]] * 2, seed=seed)
        task.collect(0)
        task.collect(1)
        seeds |= set(task.seeds)
    assert len(seeds) == 4
    orders = [[row.id for row in Scripted([[2] * 12], seed=seed)._prompts(0)] for seed in (0, 1)]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("budget", [16, 4096])
def test_the_critic_is_fitted_to_each_tokens_own_discounted_return(
    monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    """Micro-batches put long answers first, so the returns have to follow the rows."""
    seen: list[tuple[TokenBatch, Tensor]] = []
    monkeypatch.setattr(ppo_task, "fit_values", lambda critic, batches: seen.extend(batches))
    task = Scripted(
        [[2, 4, 3, 5]],
        critic_init="fit",
        gamma=0.5,
        lam=0.25,
        normalise_reward=False,
        tokens_per_microbatch=budget,
    )
    rows = task.collect(0).rows
    found = {}
    for batch, returns in seen:
        parts = returns.split(torch.bincount(batch.scored_in).tolist())
        found.update(zip(batch.names, [part.tolist() for part in parts], strict=True))
    # The score, the answer's length, at the last token; half of it one token before; whatever lambda is.
    want = [[n * 0.5 ** (n - 1 - t) for t in range(n)] for n in (2, 4, 3, 5)]
    assert [found[row.id] for row in rows] == want


def test_a_state_carries_the_coefficient_and_both_units() -> None:
    task = Scripted([[3, 5, 3, 5]], kl_coef=0.1, kl_target=1.0, kl_horizon=10)
    task.collect(0)
    task.critic.mean = 1.5  # as a fit leaves it
    other = Scripted([[3, 5, 3, 5]], kl_coef=0.1, kl_target=1.0, kl_horizon=10)
    other.load(task.state())
    assert other.kl.coef == task.kl.coef != 0.1
    assert (other.mean, other.std) == (task.mean, task.std) != (0.0, 1.0)
    assert (other.critic.mean, other.critic.std) == (1.5, task.critic.std)


def test_metrics_of_a_source_are_of_its_answers() -> None:
    metrics = Scripted([[2, 4, 5, 7]]).collect(0).metrics
    ids = [row.source for row in Scripted([[2, 4, 5, 7]])._prompts(0)]
    means = dict(zip(ids, (3.0, 6.0), strict=True))
    assert {s: metrics[f"objective/scores/{s}"] for s in means} == means
    assert metrics["objective/scores"] == 4.5


def test_explained_variance_is_that_of_the_returns() -> None:
    task = Scripted([[2, 4, 2, 4]], normalise_reward=False)
    task.critic.values = lambda b: (b.targets == EOS).float()  # type: ignore[method-assign]
    # Returns 2, 2 and 4, 4, 4, 4: variance 8/9. Less the values 2, 1 and 4, 4, 4, 3: variance 4/3.
    assert task.collect(0).metrics["val/explained_var"] == pytest.approx(1 - (4 / 3) / (8 / 9))


def test_a_row_of_metrics_is_the_mean_over_its_rounds_updates() -> None:
    task = Scripted([[3, 5, 3, 5]] * 2)
    task.micros(0)
    loss = [{"loss": 1.0}, {"loss": 2.0, "policy/ratio": 5.0}, {"loss": 3.0}, {"loss": 6.0}]
    rows = [task.after(step, dict(update)) for step, update in enumerate(loss)]
    assert rows[:3] == [None] * 3
    assert rows[3] is not None
    assert (rows[3]["iteration"], rows[3]["loss"], rows[3]["policy/ratio"]) == (1.0, 3.0, 5.0)
    task.micros(4)
    assert task.after(4, {"loss": 8.0}) is None
    assert task.updates == [{"loss": 8.0}], "a new round starts a new mean"


def test_a_state_stands_between_rounds_only() -> None:
    task = Scripted([[3, 5, 3, 5]] * 2)
    assert [step for step in range(9) if task.edge(step)] == [0, 4, 8]


@pytest.mark.parametrize(("given", "want"), [({}, 3e-3), ({"critic_lr": 5e-4}, 5e-4)])
def test_learning_rates_of_policy_and_critic(given: dict[str, float], want: float) -> None:
    task = Scripted([[3, 5, 3, 5]], lr=1e-3, **given)
    assert [(group.name, group.lr) for group in task.groups] == [
        ("policy", 1e-3),
        ("critic", pytest.approx(want)),
    ]


def test_a_policy_that_does_not_start_at_its_reference_is_refused() -> None:
    with pytest.raises(NumericsError, match="policy and reference differ by 0.33"):  # 0.5 of 1.5
        Scripted([[3, 5, 3, 5]], drift=[0.5]).collect(0)


def test_log_probs_that_are_not_the_samplers_are_refused() -> None:
    task = Scripted([[3, 5, 3, 5]])
    task.policy.logps = lambda b, t: (torch.full((len(b.targets),), LOGP - 0.25), None)  # type: ignore
    task.policy.ref_logps = lambda b, t: torch.full((len(b.targets),), LOGP - 0.25)  # type: ignore
    with pytest.raises(NumericsError, match="as sampled and recomputed differ by 0.2"):
        task.collect(0)


def test_a_reward_that_sees_its_neighbours_is_refused() -> None:
    task = Scripted([[3, 5, 3, 5]])
    task.reward.scores = lambda b: torch.arange(b.sequences) + float(b.sequences)  # type: ignore
    with pytest.raises(NumericsError, match="alone and in a padded batch"):
        task.collect(0)


def test_a_step_that_is_done_again_does_not_sample_again() -> None:
    task = Scripted([[3, 5, 3, 5], [9, 9, 8, 9]], kl_coef=0.1, kl_target=0.5)
    task.micros(0)
    coefficient, first = task.kl.coef, task.now
    assert task.halve() == 2048
    task.micros(0)
    assert (len(task.seeds), task.kl.coef, task.now) == (1, coefficient, first)
    task.micros(task.per_round)
    assert len(task.seeds) == 2
