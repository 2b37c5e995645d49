"""Freezing by pattern: what is frozen moves by no bit, costs no gradient and no optimizer state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from align.config.schema import NoAdapter
from align.data.types import Response, TokenRow
from align.engine.batch import pack
from align.errors import ConfigError
from align.models.adapter_configs import check_adapter
from align.models.critic import critic_of
from align.models.freezing import frozen_names
from align.models.policy import open_policy
from align.models.reward_model import new_reward_model
from align.training.optim import Group, build
from align.training.state import capture

ROWS = [TokenRow("a", (5, 6, 7), (Response((8, 9, 2), (1.0,) * 3),))]
PATTERNS = ["model.embed_tokens*", "*layers.[01].*"]  # of three layers, so the last one and the norm learn


def test_patterns_by_hand() -> None:
    names = ["embed.weight", "layers.1.w", "layers.12.w", "norm"]
    assert frozen_names(names, ["*layers.[0-9].*"]) == {"layers.1.w"}
    assert frozen_names(names, ["embed*", "nor?"]) == {"embed.weight", "norm"}
    assert frozen_names(names, []) == set()
    assert frozen_names(names, ["layers*"]) == {"layers.1.w", "layers.12.w"}


@pytest.mark.parametrize(
    ("patterns", "line"),
    [
        (["*embed_token"], "'*embed_token' matches no parameter; the nearest is model.embed_tokens.weight"),
        (["lm_head*"], "'lm_head*' matches no parameter; the nearest is "),
        (["*norm*", "*"], "freezes every parameter; leave one to learn"),
        (["embed_tokens"], "'embed_tokens' matches no parameter"),  # a pattern is of the whole name
    ],
)  # fmt: skip
def test_patterns_that_cannot_be(base: Path, patterns: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_adapter(base, NoAdapter(kind="none", freeze=patterns))
    assert str(refused.value).startswith(f"adapter.freeze: {line}")


@pytest.mark.parametrize("head", ["policy", "reward"])
def test_what_is_frozen_stays_and_keeps_no_state(base: Path, head: str) -> None:
    adapter = NoAdapter(kind="none", freeze=PATTERNS)
    check_adapter(base, adapter)
    if head == "policy":
        policy = open_policy(base, base, None, adapter)
        model, learns, values = policy.model, policy.trainable(), lambda: policy.logps(pack(ROWS))[0]
    else:
        reward = new_reward_model(base, base, None, adapter, layers=None, seed=0)
        model, learns, values = reward.model, reward.trainable(), lambda: reward.scores(pack(ROWS))
    frozen = [
        n for n, _ in model.named_parameters() if "embed" in n or ".layers.0." in n or ".layers.1." in n
    ]
    others = [n for n, _ in model.named_parameters() if n not in frozen]
    assert frozen
    assert any("layers.2." in n for n in others)
    assert list(learns) == others
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = build("adamw", [Group("all", learns, 1e-2)], weight_decay=0.1)
    for _ in range(2):
        values().sum().backward()
        optimizer.step()
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n]) == (n in frozen), n
        assert (p.grad is None) == (n in frozen), n
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(others)
    tensors, _ = capture(learns, optimizer)
    assert not [key for key in tensors if any(key.endswith(n) for n in frozen)]


def test_a_critic_of_its_own_is_frozen_alike(base: Path) -> None:
    reward = new_reward_model(base, base, None, NoAdapter(kind="none"), layers=None, seed=0)
    reward.model.requires_grad_(False)
    learns = critic_of(reward, PATTERNS).trainable()
    assert any("layers.2." in n for n in learns)
    assert "score.weight" in learns
    assert not [n for n in learns if "embed" in n or ".layers.0." in n or ".layers.1." in n]


def test_the_saved_policy_is_whole(base: Path, tmp_path: Path) -> None:
    policy = open_policy(base, base, None, NoAdapter(kind="none", freeze=PATTERNS))
    policy.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] == 3
    again = open_policy(tmp_path, base, None, NoAdapter(kind="none", freeze=PATTERNS))
    assert torch.equal(again.logps(pack(ROWS))[0], policy.logps(pack(ROWS))[0])
    assert set(again.trainable()) == set(policy.trainable())
