"""Reward models and critics: plain transformers reads the same scores; a critic learns apart."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from align.artifacts.store import Artifact
from align.config.schema import LoraAdapter, NoAdapter
from align.data.types import Response, TokenRow
from align.engine.batch import pack
from align.errors import ConfigError, IntegrityError
from align.models import adapters
from align.models.critic import critic_of
from align.models.policy import open_policy
from align.models.reward_model import RewardModel, new_reward_model, open_reward_model

LORA = LoraAdapter(kind="lora", r=4, alpha=8, top_layers=2)
FULL = NoAdapter(kind="none")


def rows(eos: int) -> list[TokenRow]:
    return [
        TokenRow("a", (5, 6, 7), (Response((8, 9, eos), (1.0,) * 3), Response((4, eos), (1.0,) * 2))),
        TokenRow("b", (9,), (Response((4, 7, 7, 7, eos), (1.0,) * 5),)),
    ]


def trained(base: Path, adapter: LoraAdapter | NoAdapter, layers: int | None = None) -> RewardModel:
    reward = new_reward_model(base, base, None, adapter, layers=layers, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in reward.trainable().values():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return reward


def saved(reward: RewardModel, folder: Path) -> Artifact:
    folder.mkdir(exist_ok=True)
    reward.save(folder)
    return Artifact(folder, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("adapter", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("layers", [None, 2])
@torch.no_grad()
def test_plain_transformers_gives_the_same_scores(
    base: Path, tmp_path: Path, adapter: LoraAdapter | NoAdapter, layers: int | None
) -> None:
    reward = trained(base, adapter, layers)
    eos = reward.template.eos_id
    want = reward.scores(pack(rows(eos)))
    artifact = saved(reward, tmp_path)
    torch.testing.assert_close(open_reward_model(artifact, base, None).scores(pack(rows(eos))), want)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.pad_token_id != eos
    if adapter is LORA:
        plain = AutoModelForSequenceClassification.from_pretrained(base, config=config)
        plain = PeftModel.from_pretrained(plain, str(tmp_path))
    else:
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    sequences = [[5, 6, 7, 8, 9, eos], [5, 6, 7, 4, eos], [9, 4, 7, 7, 7, eos]]
    padded = torch.full((3, 6), config.pad_token_id)
    for i, ids in enumerate(sequences):
        padded[i, : len(ids)] = torch.tensor(ids)
    got = plain(input_ids=padded, attention_mask=(padded != config.pad_token_id).long()).logits[:, 0]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_head_starts_with_the_stated_spread(base: Path) -> None:
    weight = new_reward_model(base, base, None, FULL, layers=None, seed=0).plain.score.weight  # type: ignore[union-attr]
    assert weight.std().item() == pytest.approx(1 / math.sqrt(33), rel=0.3)
    again = new_reward_model(base, base, None, FULL, layers=None, seed=1).plain.score.weight  # type: ignore[union-attr]
    assert not torch.equal(weight, again)


@torch.no_grad()
def test_starts_from_the_policys_adapter(base: Path, tmp_path: Path) -> None:
    policy = open_policy(base, base, None, LORA)
    for p in policy.trainable().values():
        p.add_(0.05)
    policy.save(tmp_path)
    reward = new_reward_model(tmp_path, base, None, LORA, layers=2, seed=0)
    mine, theirs = reward.trainable(), policy.trainable()
    shared = [n for n in mine if "lora_" in n]
    assert {adapters.layer_of(n) for n in shared} == {1}, "layer 2 was cut away, layer 0 never learned"
    assert all(torch.equal(mine[n], theirs[n]) for n in shared)
    with pytest.raises(ConfigError, match="1 keeps no layer that the policy's adapter trains"):
        new_reward_model(tmp_path, base, None, LORA, layers=1, seed=0)


@pytest.mark.parametrize("adapter", [LORA, FULL], ids=["lora", "full"])
def test_a_missing_head_is_never_random(base: Path, tmp_path: Path, adapter: LoraAdapter | NoAdapter) -> None:
    artifact = saved(trained(base, adapter), tmp_path)
    file = next(tmp_path.glob("*.safetensors"))
    tensors = {n: t for n, t in load_file(file).items() if "score" not in n}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="score"):
        open_reward_model(artifact, base, None)


@pytest.mark.parametrize("adapter", [LORA, FULL], ids=["lora", "full"])
def test_critic_starts_at_the_reward_and_learns_apart(
    base: Path, tmp_path: Path, adapter: LoraAdapter | NoAdapter
) -> None:
    artifact = saved(trained(base, adapter), tmp_path)
    reward = open_reward_model(artifact, base, None)
    eos = reward.template.eos_id
    before = reward.scores(pack(rows(eos)))
    critic = critic_of(reward)
    # The value before a token is read at the token before it: the last value of (prompt, x, EOS) is read at
    # x.
    one = pack([TokenRow("a", (5, 6, 7), (Response((8, eos), (1.0, 1.0)),))], score_all=True)
    hidden = [pack([TokenRow("a", (5, 6), (Response(ids, (1.0,) * len(ids)),))]) for ids in ((7,), (7, 8))]
    want = torch.stack([reward.scores(batch)[0] for batch in hidden])
    torch.testing.assert_close(critic.values(one), want, rtol=1e-5, atol=1e-5)
    critic.mean, critic.std = 2.0, 4.0
    torch.testing.assert_close(critic.values(one), (want - 2.0) / 4.0, rtol=1e-5, atol=1e-5)
    critic.values(one).sum().backward()
    names = critic.trainable()
    assert any("score" in n and p.grad is not None for n, p in names.items())
    with torch.no_grad():
        for p in names.values():
            p.add_(0.3)
    assert torch.equal(reward.scores(pack(rows(eos))), before), "the reward moved with the critic"
    assert not torch.allclose(critic.values(one), (want - 2.0) / 4.0, atol=1e-3)


@pytest.mark.parametrize("adapter", [LORA, FULL], ids=["lora", "full"])
@torch.no_grad()
def test_a_head_is_set_in_the_units_of_values(
    base: Path, tmp_path: Path, adapter: LoraAdapter | NoAdapter
) -> None:
    reward = open_reward_model(saved(trained(base, adapter), tmp_path), base, None)
    scores = reward.scores(pack(rows(reward.template.eos_id)))
    critic = critic_of(reward)
    critic.mean, critic.std = 2.0, 4.0
    batch = pack(rows(reward.template.eos_id), score_all=True)
    weight = torch.linspace(-1, 1, critic.features(batch).shape[1])
    critic.set_head(weight, 0.75)
    torch.testing.assert_close(
        critic.values(batch), critic.features(batch) @ weight + 0.75, rtol=1e-4, atol=1e-5
    )
    assert torch.equal(reward.scores(pack(rows(reward.template.eos_id))), scores), "the reward's head moved"
