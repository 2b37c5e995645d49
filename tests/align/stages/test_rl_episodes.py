"""Reinforcement learning on episodes: what an environment says is no target, and a kill changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from align.artifacts.store import Store
from align.config.rewards import EnvironmentReward
from align.config.rl_options import RlOptions
from align.data.types import Message, Prompt, TokenRow
from align.engine.batch import Budget, TokenBatch
from align.reward import functions
from align.reward.scorers.environment import environment_scorer
from align.reward.shaping import Scale
from align.reward.types import Scores
from align.rollout.ends import Ends
from align.rollout.types import Rollout
from align.run import main
from align.stages import rl_round
from align.stages.answered import answered
from align.stages.rl_round import Collector, Round
from align.stages.rl_sampled import Sampled
from align.stages.rl_task import RlTask

EOS = 2
EPISODE = Rollout(
    "p", 1, (7, 7), (5, 6, EOS, 8, 9, 5, EOS), (-1.0, -2.0, -3.0, -4.0, -5.0), "eos", ((0, 3), (5, 7)),
    (Message("assistant", "x"), Message("user", "y")), 0.5,
)  # fmt: skip
ANSWER = Rollout("p", 0, (7, 7), (6, EOS), (-1.0, -2.0), "eos")


@pytest.mark.parametrize(
    ("normalise", "weights"),
    [("token", [1.0, 1.0]), ("sequence", [1 / 5, 1 / 2]), ("constant", [1 / 18, 1 / 18])],
)
def test_the_gradient_of_a_token_that_was_not_sampled_is_nothing(
    normalise: str, weights: list[float]
) -> None:
    """Log-probs are leaves; at ratio 1 the gradient of the clipped loss is minus the advantage."""
    o = RlOptions.model_validate(
        {"kind": "rl", "policy": "base", "reward": "rm", "prompts": "x", "kl": "none", "advantage": "rloo",
         "prompts_per_iteration": 1, "samples_per_prompt": 2, "minibatches": 1, "normalise": normalise,
         "environment": "mine", "max_turns": 3, "sampling": {"max_new_tokens": 6}}
    )  # fmt: skip
    prompt = TokenRow("p", (7, 7), ())
    rows = [rl_round._row(r, prompt) for r in (EPISODE, ANSWER)]
    leaves = {row.id: torch.zeros(len(row.responses[0].ids), requires_grad=True) for row in rows}
    old = torch.zeros(2, 5)
    advantages = torch.tensor([[1.0, 2, 3, 4, 5], [6, 7, 0, 0, 0]])
    mask = advantages > 0
    now = Round(0, rows, mask, torch.ones(2).bool(), old, advantages, None, None, old, {})

    def logps(batch: TokenBatch, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        at = batch.scored_at - (len(prompt.prompt) - 1)
        found = [
            leaves[batch.names[batch.rows[s]]][i]
            for s, i in zip(batch.scored_in.tolist(), at.tolist(), strict=True)
        ]
        return torch.stack(found), torch.zeros(len(found))

    policy = SimpleNamespace(trainable=dict, logps=logps)
    collector = SimpleNamespace(budget=Budget(64), kl=SimpleNamespace(coef=0.0))
    task = RlTask(SimpleNamespace(options=o, seed=0), collector, policy, None)  # type: ignore[arg-type]
    task.now = now
    for micro in task.micros(0)[0]:
        micro.loss().total.backward()
    want = [-1.0, -2.0, -3.0, 0.0, 0.0, -4.0, -5.0], [-6.0, -7.0]
    for row, grads, weight in zip(rows, want, weights, strict=True):
        found = leaves[row.id].grad
        assert found is not None
        assert found.tolist() == pytest.approx([weight * grad for grad in grads])


def test_a_scorer_reads_the_last_turn_behind_all_that_was_said() -> None:
    asked = Prompt("p", (Message("user", "q"),), facts={"answer": "1"})
    ends = Ends((EOS,), (), lambda ids: " ".join(map(str, ids)))
    first, second = answered([EPISODE, ANSWER], [asked, asked], ends, EOS)
    assert [turn.content for turn in first.prompt] == ["q", "x", "y"]
    assert (first.text, first.row.prompt, first.row.responses[0].ids) == (
        "5",
        (7, 7, 5, 6, 2, 8, 9),
        (5, EOS),
    )
    assert (first.tokens, first.facts, first.earned) == (1, {"answer": "1"}, 0.5)
    assert (second.text, second.row.prompt, second.earned) == ("6", (7, 7), None)
    assert environment_scorer(EnvironmentReward(kind="environment"))([first]).values.tolist() == [0.5]


def test_kept_samples_carry_all_of_an_episode() -> None:
    found = Sampled([TokenRow("p", (7, 7), ())], [ANSWER, EPISODE], Scores(torch.tensor([1.0, 0.5])), 3)
    again = Sampled.from_state(json.loads(json.dumps(found.state())), 2)
    assert again.rollouts == [ANSWER, EPISODE]


def test_long_episodes_lose_near_the_limit_of_a_turn() -> None:
    """The last turn has two of at most four tokens, the last two of which cost; the episode has seven."""
    o = SimpleNamespace(
        sampling=SimpleNamespace(max_new_tokens=4), overlong_buffer=2, missing_eos_penalty=0.0
    )
    stage: Any = SimpleNamespace(o=o, scale=Scale("none", None), critic=None)
    assert Collector._scaled(stage, [EPISODE, ANSWER], torch.ones(2), first=False).tolist() == [1.0, 1.0]


def test_a_constant_divides_by_all_turns() -> None:
    plain = {
        "kind": "rl",
        "policy": "base",
        "reward": "rm",
        "prompts": "x",
        "sampling": {"max_new_tokens": 6},
    }
    assert RlOptions.model_validate(plain).longest == 6
    assert RlOptions.model_validate({**plain, "environment": "mine", "max_turns": 3}).longest == 18


# --- whole stages ---------------------------------------------------------------------------------------

MINE = """
class Short:
    def reset(self, prompt):
        self.said = []

    def step(self, text):
        self.said.append(text)
        return f"Shorter than {len(text)}?" if len(self.said) < 3 else None

    def reward(self):
        return -sum(map(len, self.said)) / 10
"""
RL: dict[str, Any] = {
    "kind": "rl", "policy": "base", "reward": {"worth": {"kind": "environment"}}, "environment": "Short",
    "prompts": {"card": "everyday_prompts", "limit": 8}, "max_prompt": 96, "iterations": 3,
    "prompts_per_iteration": 4, "samples_per_prompt": 2, "minibatches": 2, "epochs": 1, "lr": 3e-3,
    "sampling": {"max_new_tokens": 12, "stop": ["a", "e", "i", "o", "t", " "]}, "missing_eos_penalty": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def run(folder: Path, options: dict[str, Any]) -> int:
    (folder / "mine" / "recipe").mkdir(parents=True, exist_ok=True)
    recipe = {"defaults": [{"override /model": "tiny"}], "stages": {"rl": options}}
    (folder / "mine" / "recipe" / "mine.yaml").write_text("# @package _global_\n" + json.dumps(recipe))
    (folder / "short.py").write_text(MINE)
    words = ["--config-dir", str(folder / "mine"), "recipe=mine", f"runs={folder / 'runs'}"]
    try:
        return main([*words, f"rewards_from={folder / 'short.py'}"])
    finally:
        functions.unload()


def rows(folder: Path) -> list[dict[str, float]]:
    (artifact,) = Store(folder / "runs" / "artifacts").all()
    return [json.loads(line) for line in (artifact.path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[Round]:
    """What is collected."""
    found: list[Round] = []
    collect = Collector.collect

    def collected(self: Collector, iteration: int) -> Round:
        found.append(collect(self, iteration))
        return found[-1]

    monkeypatch.setattr(Collector, "collect", collected)
    return found


@pytest.mark.parametrize("options", [{"advantage": "gae"}, {"advantage": "remax"}, {"advantage": "rloo"}])
def test_whole_stages_learn_from_sampled_tokens_alone(
    tmp_path: Path, rounds: list[Round], options: dict[str, Any]
) -> None:
    assert run(tmp_path, {**RL, **options}) == 0
    found = rows(tmp_path)
    assert max(row["response/turns"] for row in found) > 1
    assert all(row["reward/worth"] == row["objective/scores"] for row in found)
    for now in rounds:
        weights = [row.responses[0].weights for row in now.rows]
        assert now.mask.sum(1).tolist() == [sum(one) for one in weights]
        assert {weight for one in weights for weight in one} == {0.0, 1.0}
        assert now.advantages.shape == now.logps.shape == now.mask.shape
        if now.values is not None:
            assert now.values.shape == now.mask.shape
    (artifact,) = Store(tmp_path / "runs" / "artifacts").all()
    samples = [json.loads(line) for line in (artifact.path / "samples.jsonl").read_text().splitlines()]
    assert any("Shorter than" in sample["after"] for sample in samples), "whole episodes are shown"


def test_a_run_that_was_killed_behind_its_sampling_ends_as_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**RL, "advantage": "gae"}
    assert run(tmp_path / "whole", options) == 0
    scaled, sample = Collector._scaled, Collector._sample
    drawn: list[int] = []

    def killed(self: Collector, *given: Any, **named: Any) -> Any:
        if drawn[-1:] == [1]:
            raise KeyboardInterrupt
        return scaled(self, *given, **named)

    def counted(self: Collector, iteration: int) -> Any:
        drawn.append(iteration)
        return sample(self, iteration)

    monkeypatch.setattr(Collector, "_sample", counted)
    with monkeypatch.context() as patch:
        patch.setattr(Collector, "_scaled", killed)
        assert run(tmp_path / "cut", options) != 0
    assert drawn == [0, 1]
    assert run(tmp_path / "cut", options) == 0
    assert drawn == [0, 1, 2], "the second round's episodes were kept"
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
