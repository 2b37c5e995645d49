"""A round of PPO on scripted answers, small enough to be worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from align.artifacts.work import Work
from align.config.rl_options import RlOptions
from align.data.types import Prompt, TokenRow
from align.engine.batch import Budget, TokenBatch
from align.errors import NumericsError
from align.reward.types import Answered, Scores
from align.rollout.types import Rollout
from align.stages import rl_round
from align.stages.rl_round import Collector
from align.stages.rl_task import RlTask

EOS = 2
LOGP = -1.0  # of every token as it was sampled


class Forgetful:
    """Keeps no samples."""

    checkpoint_exists = False

    def save(self, step: int, tensors: Any, state: Any) -> None:
        """Throw them away."""


def tokens_up_to_eos(answers: Sequence[Answered]) -> Scores:
    """The scorer."""
    return Scores(torch.tensor([float(a.tokens + 1) for a in answers]))


class Scripted(Collector):
    """Answers are given, a reward is the number of tokens up to EOS, a value 0, and KL as wanted.

    Attributes:
        lengths: Tokens of each round's answers; each ends in EOS.
        drift: Log-ratio of each token to the reference, by round.
        seeds: What `sample` was called with.
    """

    def __init__(
        self, lengths: list[list[int]], drift: Sequence[float] = (), options_work: Any = None, **options: Any
    ) -> None:
        self.lengths, self.drift = lengths, [*drift, *[0.0] * len(lengths)]
        self.seeds: list[int] = []
        count = len(lengths[0])
        o = RlOptions(
            **{
                "kind": "rl",
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
            logps=lambda b, t, *_, **__: (torch.full((len(b.targets),), LOGP), torch.zeros(len(b.targets))),
            ref_logps=lambda b, t: torch.full((len(b.targets),), LOGP - self.drift[len(self.seeds) - 1]),
        )
        critic = SimpleNamespace(
            trainable=dict, mean=0.0, std=1.0, values=lambda b: torch.zeros(len(b.targets))
        )
        prompts = [TokenRow(f"p{n}", (7,) * (n + 1), (), source=f"s{n % 2}") for n in range(count // 2)]
        work = options_work or SimpleNamespace(
            side=lambda name: Forgetful(), metrics=SimpleNamespace(rows=list)
        )
        self.ctx: Any = SimpleNamespace(
            options=o,
            seed=options.get("seed", 0),
            name="ppo",
            work=work,
            reporter=SimpleNamespace(note=print),
        )
        learns = critic if o.advantage == "gae" else None
        texts = {p.id: Prompt(p.id, ()) for p in prompts}
        super().__init__(self.ctx, policy, tokens_up_to_eos, learns, prompts, texts)  # type: ignore[arg-type]

    @property
    def task(self) -> RlTask:
        """The updates on these rounds."""
        return RlTask(self.ctx, self, self.policy, self.critic)

    def sample(
        self,
        prompts: Sequence[TokenRow],
        seed: int,
        samples: int,
        model: Any = None,
        temperature: float | None = None,
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
    assert task.scale.unit == (4.0, pytest.approx(unit))
    assert (task.critic.mean, task.critic.std) == task.scale.unit, "a value is in the reward's unit"
    assert first.advantages[:2, 0].tolist() == pytest.approx([-1 / unit, 1 / unit])
    second = task.collect(1)
    assert task.scale.mean == 4.0
    assert second.advantages[0, 0].item() == pytest.approx((9 - 4) / unit)


def test_a_reward_is_taken_as_it_is_where_that_is_asked_for() -> None:
    task = Scripted([[3, 5, 3, 5]], reward_scale="none")
    now = task.collect(0)
    assert (*task.scale.unit, task.critic.mean, task.critic.std) == (0.0, 1.0, 0.0, 1.0)
    # Without values, discount and KL each token's advantage is the score; without whitening it stays so.
    assert now.advantages.tolist() == [[3.0] * 3 + [0.0] * 2, [5.0] * 5] * 2


def test_the_coefficient_adapts_after_its_round_by_the_number_of_answers() -> None:
    script: dict[str, Any] = {"kl_coef": 0.1, "kl_target": 0.5, "kl_horizon": 10, "reward_scale": "none"}
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
    task = Scripted([[2, 3] * 6] * 2).task
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
    orders = [[row.id for row in Scripted([[2] * 12], seed=seed)._prompts(0, 6)] for seed in (0, 1)]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("budget", [16, 4096])
def test_the_critic_is_fitted_to_each_tokens_own_discounted_return(
    monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    """Micro-batches put long answers first, so the returns have to follow the rows."""
    seen: list[tuple[TokenBatch, Tensor]] = []
    monkeypatch.setattr(rl_round, "fit_values", lambda critic, batches: seen.extend(batches))
    task = Scripted(
        [[2, 4, 3, 5]],
        critic_init="fit",
        gamma=0.5,
        lam=0.25,
        reward_scale="none",
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
    assert other.scale.unit == task.scale.unit != (0.0, 1.0)
    assert (other.critic.mean, other.critic.std) == (1.5, task.critic.std)


def test_metrics_of_a_source_are_of_its_answers() -> None:
    metrics = Scripted([[2, 4, 5, 7]]).collect(0).metrics
    ids = [row.source for row in Scripted([[2, 4, 5, 7]])._prompts(0, 2)]
    means = dict(zip(ids, (3.0, 6.0), strict=True))
    assert {s: metrics[f"objective/scores/{s}"] for s in means} == means
    assert metrics["objective/scores"] == 4.5


def test_explained_variance_is_that_of_the_returns() -> None:
    task = Scripted([[2, 4, 2, 4]], reward_scale="none")
    task.critic.values = lambda b: (b.targets == EOS).float()  # type: ignore[method-assign]
    # Returns 2, 2 and 4, 4, 4, 4: variance 8/9. Less the values 2, 1 and 4, 4, 4, 3: variance 4/3.
    assert task.collect(0).metrics["val/explained_var"] == pytest.approx(1 - (4 / 3) / (8 / 9))


def test_a_row_of_metrics_is_the_mean_over_its_rounds_updates() -> None:
    task = Scripted([[3, 5, 3, 5]] * 2).task
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
    task = Scripted([[3, 5, 3, 5]] * 2).task
    assert [step for step in range(9) if task.edge(step)] == [0, 4, 8]


@pytest.mark.parametrize(("given", "want"), [({}, 3e-3), ({"critic_lr": 5e-4}, 5e-4)])
def test_learning_rates_of_policy_and_critic(given: dict[str, float], want: float) -> None:
    task = Scripted([[3, 5, 3, 5]], lr=1e-3, **given).task
    assert [(group.name, group.lr) for group in task.groups] == [
        ("policy", 1e-3),
        ("critic", pytest.approx(want)),
    ]


def test_a_policy_that_does_not_start_at_its_reference_is_refused() -> None:
    with pytest.raises(NumericsError, match="policy and reference differ by 0.33"):  # 0.5 of 1.5
        Scripted([[3, 5, 3, 5]], drift=[0.5]).collect(0)


def test_log_probs_that_are_not_the_samplers_are_refused() -> None:
    task = Scripted([[3, 5, 3, 5]])
    task.policy.logps = lambda b, t, *_, **__: (torch.full((len(b.targets),), LOGP - 0.25), None)  # type: ignore
    task.policy.ref_logps = lambda b, t: torch.full((len(b.targets),), LOGP - 0.25)  # type: ignore
    with pytest.raises(NumericsError, match="as sampled and recomputed differ by 0.2"):
        task.collect(0)


def test_a_step_that_is_done_again_does_not_sample_again() -> None:
    rounds = Scripted([[3, 5, 3, 5], [9, 9, 8, 9]], kl_coef=0.1, kl_target=0.5)
    task = rounds.task
    task.micros(0)
    coefficient, first = rounds.kl.coef, task.now
    assert task.halve() == 2048
    task.micros(0)
    assert (len(rounds.seeds), rounds.kl.coef, task.now) == (1, coefficient, first)
    task.micros(task.per_round)
    assert len(rounds.seeds) == 2


# --- parts chosen by name -------------------------------------------------------------------------------

PLAIN: dict[str, Any] = {"reward_scale": "none", "kl_coef": 0.5, "missing_eos_penalty": 0.0, "whiten": False}


@pytest.mark.parametrize(
    ("advantage", "want"),
    [
        # Two prompts with answers of 2, 4 and of 3, 9 tokens; the score is the length, and each token of the
        # second round costs half a nat: rewards 1, 2 and 1.5, 4.5.
        ("dr_grpo", [-0.5, 0.5, -1.5, 1.5]),
        ("rloo", [-1.0, 1.0, -3.0, 3.0]),
        ("reinforce_pp_baseline", [-0.5, 0.5, -1.5, 1.5]),
        ("grpo", [-0.5 / (0.5**0.5 + 1e-4), 0.5 / (0.5**0.5 + 1e-4), -1.5 / (4.5**0.5 + 1e-4), 1.5 /
        (4.5**0.5 + 1e-4)]), ("best_of_n", [0.0, 1.0, 0.0, 1.0]),
    ],
)  # fmt: skip
def test_an_answer_is_compared_with_those_to_its_prompt(advantage: str, want: list[float]) -> None:
    rounds = Scripted([[2, 4, 3, 9]] * 2, drift=[0.0, 1.0], advantage=advantage, **PLAIN)
    rounds.collect(0)
    now = rounds.collect(1)
    for row, mask, value in zip(now.advantages, now.mask, want, strict=True):
        assert row[mask].tolist() == pytest.approx([value] * int(mask.sum()), rel=1e-5)
        assert row[~mask].tolist() == [0.0] * int((~mask).sum())
    assert now.values is None
    assert now.metrics["objective/rlhf_reward"] == pytest.approx((1 + 2 + 1.5 + 4.5) / 4)


def test_reinforce_pp_sums_what_is_still_to_come() -> None:
    rounds = Scripted([[2, 4, 3, 9]] * 2, drift=[0.0, 1.0], advantage="reinforce_pp", **PLAIN)
    rounds.collect(0)
    now = rounds.collect(1)
    assert now.advantages[1, :4].tolist() == pytest.approx([2.0, 2.5, 3.0, 3.5])  # 4 - half a nat a token


def test_remax_takes_the_greedy_answers_score_away() -> None:
    rounds = Scripted([[2, 4, 3, 9], [1, 7]], advantage="remax", **{**PLAIN, "kl_coef": 0.0})
    now = rounds.collect(0)  # the greedy answers are the script's next
    assert now.advantages[:, 0].tolist() == pytest.approx([2 - 1, 4 - 1, 3 - 7, 9 - 7])
    assert len(rounds.seeds) == 2


def test_kl_in_the_loss_leaves_the_reward_alone() -> None:
    rounds = Scripted([[2, 4, 3, 9]] * 2, drift=[0, 1], advantage="rloo", kl="k3", kl_in="loss", **PLAIN)
    rounds.collect(0)
    now = rounds.collect(1)
    assert now.advantages[:, 0].tolist() == pytest.approx([-2.0, 2.0, -6.0, 6.0])
    each = math.exp(-1.0) - 1 + 1  # k3 of a log-ratio of 1
    assert now.metrics["objective/kl"] == pytest.approx(each * (2 + 4 + 3 + 9) / 4)
    assert now.ref_logps is not None
    assert now.ref_logps[0, :2].tolist() == [LOGP - 1.0] * 2


def test_without_a_reference_nothing_is_compared() -> None:
    rounds = Scripted([[2, 4, 3, 9]], advantage="rloo", kl="none", **{**PLAIN, "kl_coef": 0.05})
    rounds.policy.ref_logps = None  # type: ignore[assignment,method-assign]
    now = rounds.collect(0)
    assert now.ref_logps is None
    assert "objective/kl" not in now.metrics
    assert now.advantages[:, 0].tolist() == pytest.approx([-2.0, 2.0, -6.0, 6.0])


def test_groups_that_teach_nothing_are_replaced_until_the_round_is_full() -> None:
    script = [[3, 3, 2, 4], [5, 5], [6, 8]]
    rounds = Scripted(script, advantage="rloo", resample=2, iterations=1, **PLAIN)
    now = rounds.collect(0)
    assert [len(row.responses[0].ids) for row in now.rows] == [2, 4, 6, 8]
    assert rounds.position == 4, "two prompts, and one more for each group that was thrown away"
    assert now.metrics["group/equal"] == 0.0


def test_a_round_keeps_its_size_where_too_few_groups_teach() -> None:
    rounds = Scripted([[3, 3, 2, 4], [5, 5]], advantage="rloo", resample=1, iterations=1, **PLAIN)
    now = rounds.collect(0)
    assert [len(row.responses[0].ids) for row in now.rows] == [2, 4, 3, 3]
    assert now.metrics["group/equal"] == 0.5


def test_samples_that_were_paid_for_are_not_drawn_again(tmp_path: Path) -> None:
    work = Work(tmp_path / "x.work", "k" * 64)
    first = Scripted([[3, 5, 3, 5], [2, 9, 2, 3]], options_work=work)
    first.collect(0)
    state = json.loads(json.dumps(first.state()))
    want = first.collect(1)
    again = Scripted([[8, 8, 8, 7]], options_work=Work(tmp_path / "x.work", "k" * 64), iterations=2)
    again.load(state)
    found = again.collect(1)
    assert again.seeds == [], "killed behind the sampling: it is kept"
    assert found.rows == want.rows
    assert torch.equal(found.advantages, want.advantages)
    assert again.state() == first.state()
    torn = tmp_path / "x.work" / "rounds" / "checkpoint-1" / "state.json"
    torn.write_text(torn.read_text()[:-20])
    (tmp_path / "x.work" / "rounds" / "checkpoint-0" / "state.json").unlink()
    last = Scripted([[8, 8, 8, 7]], options_work=Work(tmp_path / "x.work", "k" * 64), iterations=2)
    last.collect(1)
    assert len(last.seeds) == 1, "torn: drawn again"


def test_answers_that_were_cut_can_be_left_out_of_the_loss() -> None:
    rounds = Scripted([[3, 5, 4, 6]], drop_cut=True, epochs=1, minibatches=1, **PLAIN)
    sample = rounds.sample
    rounds.sample = lambda *a, **k: [
        replace(r, end="length" if i == 1 else "eos") for i, r in enumerate(sample(*a, **k))
    ]  # type: ignore
    _, count = (task := rounds.task).micros(0)
    assert task.now is not None
    assert task.now.learns.tolist() == [True, False, True, True]
    assert count == 3 + 4 + 6


def test_long_answers_lose_near_the_limit() -> None:
    options = {**PLAIN, "kl_coef": 0.0, "overlong_buffer": 4, "sampling": {"max_new_tokens": 8}}
    now = Scripted([[3, 5, 4, 8]], gamma=1.0, **options).collect(0)
    assert now.advantages[:, 0].tolist() == pytest.approx([3.0, 5 - 0.25, 4.0, 8 - 1.0])


def test_scores_are_clipped_in_their_unit() -> None:
    now = Scripted([[1, 1, 1, 9]], reward_clip=1.0, kl_coef=0.0, missing_eos_penalty=0.0).collect(0)
    assert now.advantages[:, 0].tolist() == pytest.approx([-0.5, -0.5, -0.5, 1.0])  # 1.5 before
