"""Every kind of adapter: flat, padded and plain peft on each sequence alone agree; what is saved opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import TypeAdapter
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    Qwen3Config,
)

from align.config.base import SamplingOptions
from align.config.schema import AnyAdapter, LoraAdapter, NoAdapter
from align.data.types import Response, TokenRow
from align.engine import flat
from align.engine.batch import Budget, cut, pack
from align.errors import ConfigError
from align.models import adapters
from align.models.adapter_configs import check_adapter
from align.models.critic import critic_of
from align.models.export import _merge
from align.models.policy import Policy, open_policy
from align.models.reward_model import RewardModel, new_reward_model, open_reward_model
from align.rollout.ends import Ends
from align.rollout.generate import generate
from align.stages.base import Artifact

KINDS: dict[str, dict[str, Any]] = {  # alpha keeps what is jolted near the weights' own size
    "lora": {"kind": "lora", "r": 4, "alpha": 4},
    "rslora": {"kind": "lora", "r": 4, "alpha": 4, "rslora": True, "init": "gaussian"},
    "orthogonal": {"kind": "lora", "r": 4, "alpha": 4, "init": "orthogonal"},
    "pissa": {"kind": "lora", "r": 4, "alpha": 4, "init": "pissa"},
    "pissa-fast": {"kind": "lora", "r": 4, "alpha": 4, "init": "pissa_niter_16", "top_layers": 2},
    "olora": {"kind": "lora", "r": 4, "alpha": 4, "init": "olora", "rslora": True},
    "dora": {"kind": "dora", "r": 4, "alpha": 4},
    "dora-pissa": {"kind": "dora", "r": 4, "alpha": 4, "init": "pissa"},
    "ia3": {"kind": "ia3"},
    "ia3-own": {"kind": "ia3", "targets": ["q_proj", "up_proj"], "feedforward": ["up_proj"]},
    "prompt": {"kind": "prompt_tuning", "virtual_tokens": 5},
    "prompt-text": {"kind": "prompt_tuning", "virtual_tokens": 5, "init": "text", "init_text": "Be kind."},
    "prefix": {"kind": "prefix_tuning", "virtual_tokens": 5},
}
WITHOUT_STREAM = {"prefix"}
ROWS = [
    TokenRow("a", (5, 6, 7), (Response((8, 9, 2), (1.0,) * 3), Response((10, 2), (1.0,) * 2))),
    TokenRow("b", (9,), (Response((4, 2), (1.0,) * 2),)),
    TokenRow("c", (9, 3, 5, 7, 11), (Response((4, 12, 13, 2), (1.0,) * 4), Response((3,), (1.0,)))),
]


def adapter(name: str) -> Any:
    return TypeAdapter(AnyAdapter).validate_python(KINDS[name])


def jolt(opened: Policy | RewardModel) -> None:
    """Change everything that learns."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in opened.trainable().values():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))


def weighted(values: Tensor) -> Tensor:
    return (values * torch.linspace(-1, 2, len(values))).sum()


def on_path(policy: Policy, path: str) -> None:
    body = policy.plain.base_model
    _ = flat.prepare(body) if path == "flat" else flat.release(body)
    assert flat.is_prepared(body) == (path == "flat")


def measured(opened: Policy | RewardModel, values: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Numbers, and gradients by name of a sum in which each has its own weight."""
    weighted(values).backward()
    found = {n: p.grad.clone() for n, p in opened.trainable().items() if p.grad is not None}
    opened.model.zero_grad()
    return values.detach(), found


def alone(model: Any) -> Tensor:
    """Log-probs of all answer tokens by the model's own forward, one sequence at a time, nothing padded."""
    found = []
    for row in ROWS:
        for response in row.responses:
            ids = torch.tensor([[*row.prompt, *response.ids]])
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
            logits = logits[-ids.shape[1] :]  # prompt tuning shows those of its virtual tokens, too
            logps = logits.log_softmax(-1)
            found += [logps[len(row.prompt) - 1 + i, token] for i, token in enumerate(response.ids)]
    return torch.stack(found)


def near(got: Tensor, want: Tensor, name: str = "") -> None:
    assert float((got - want).norm()) <= 1e-5 * max(1e-3, float(want.norm())), name


@pytest.mark.parametrize("name", KINDS)
def test_flat_padded_and_plain_peft_agree(base: Path, tmp_path: Path, name: str) -> None:
    policy = open_policy(base, base, None, adapter(name))
    jolt(policy)
    policy.save(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(base)
    prompts = adapter(name).kind.endswith("_tuning")  # which peft itself opens for reading only
    peft = PeftModel.from_pretrained(plain, str(tmp_path), is_trainable=not prompts)
    for n, p in peft.named_parameters():
        p.requires_grad_(p.requires_grad or n.startswith("prompt_encoder."))
    again = open_policy(tmp_path, base, None, adapter(name))
    want = alone(peft)
    weighted(want).backward()
    grads = {n: p.grad for n, p in peft.named_parameters() if p.requires_grad}
    assert all(g is not None and g.abs().max() > 0 for g in grads.values())
    for path in ("padded",) if name in WITHOUT_STREAM else ("flat", "padded"):
        on_path(policy, path)
        on_path(again, path)
        near(policy.logps(pack(ROWS))[0].detach(), want.detach(), "as trained")
        got, found = measured(again, again.logps(pack(ROWS))[0])
        near(got, want.detach(), "as opened")
        assert set(found) == set(grads)
        for n, g in found.items():
            near(g, grads[n], n)  # type: ignore[arg-type]


FAMILIES = {
    "llama": LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "qwen3": Qwen3Config(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16,
    ),
    "gpt2": GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, attn_pdrop=0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", ["prompt", "prefix", "ia3"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_with_shared_keys_tied_heads_and_learned_positions(family: str, name: str) -> None:
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    peft = adapters.attach(plain, adapter(name), "CAUSAL_LM", Path("base"), seed=0).eval()
    policy = Policy(peft, None, Path("base"))  # type: ignore[arg-type]
    jolt(policy)
    want = alone(peft)
    weighted(want).backward()
    grads = {n: p.grad.clone() for n, p in policy.trainable().items() if p.grad is not None}
    peft.zero_grad()
    for path in ("padded",) if name in WITHOUT_STREAM else ("flat", "padded"):
        on_path(policy, path)
        got, found = measured(policy, policy.logps(pack(ROWS))[0])
        near(got, want.detach())
        assert set(found) == set(grads) == set(policy.trainable())
        for n, g in found.items():
            near(g, grads[n], n)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in {"prompt", "prompt-text", "prefix"}])
def test_a_new_adapter_is_the_base(base: Path, name: str) -> None:
    policy = open_policy(base, base, None, adapter(name))
    plain = open_policy(base, base, None, None)
    torch.testing.assert_close(policy.logps(pack(ROWS)), plain.logps(pack(ROWS)), rtol=1e-5, atol=1e-5)


def test_virtual_tokens_start_where_the_options_say(base: Path) -> None:
    text = open_policy(base, base, None, adapter("prompt-text"))
    tokens = text.template.tokenizer("Be kind.")["input_ids"]
    tokens = (tokens * 5)[:5]
    embeddings = open_policy(base, base, None, None).plain.get_input_embeddings().weight
    (rows,) = text.trainable().values()
    assert torch.equal(rows, embeddings[tokens])
    (drawn,) = open_policy(base, base, None, adapter("prompt"), seed=3).trainable().values()
    assert torch.equal(drawn, *open_policy(base, base, None, adapter("prompt"), seed=3).trainable().values())
    assert all(any(torch.equal(row, e) for e in embeddings) for row in drawn)
    (prefix,) = open_policy(base, base, None, adapter("prefix")).trainable().values()
    assert prefix.shape == (5, 2 * 3 * 32)
    assert not prefix.any()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("fresh", [True, False], ids=["from the base", "from an artifact"])
def test_the_reference_stays_where_the_stage_started(
    base: Path, tmp_path: Path, name: str, fresh: bool
) -> None:
    start = open_policy(base, base, None, adapter(name))
    if not fresh:
        jolt(start)
        start.save(tmp_path)
    policy = open_policy(base if fresh else tmp_path, base, None, adapter(name))
    before = policy.logps(pack(ROWS))[0].detach()
    torch.testing.assert_close(before, start.logps(pack(ROWS))[0].detach(), rtol=1e-5, atol=1e-5)
    policy.keep_reference()
    learns = set(policy.trainable())
    jolt(policy)
    assert torch.equal(policy.ref_logps(pack(ROWS)), before)
    assert not torch.allclose(policy.logps(pack(ROWS))[0], before, atol=1e-3)
    assert set(policy.trainable()) == learns


@pytest.mark.parametrize("name", ["lora", "pissa", "ia3", "prompt", "prefix"])
def test_sampling_is_greedy_as_plain_peft_generates(base: Path, name: str) -> None:
    policy = open_policy(base, base, None, adapter(name))
    jolt(policy)
    sampling = SamplingOptions(max_new_tokens=6, temperature=0.0)
    rolls = generate(policy.plain, ROWS, sampling, Ends((2,)), seed=0, samples=2)
    for i, row in enumerate(ROWS):
        ids = torch.tensor([row.prompt])
        told = policy.model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False,
            eos_token_id=2, pad_token_id=2,
        )[0, len(row.prompt) :]  # fmt: skip
        for roll in rolls[2 * i : 2 * i + 2]:
            assert list(roll.ids) == told[: len(roll.ids)].tolist()
            answer = TokenRow(row.id, row.prompt, (Response(roll.ids, (1.0,) * len(roll.ids)),))
            torch.testing.assert_close(
                policy.logps(pack([answer]))[0].detach(), torch.tensor(roll.logps), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("name", ["rslora", "pissa", "olora", "dora", "ia3", "prompt", "prefix"])
@pytest.mark.parametrize("start", ["base", "policy"])
def test_a_reward_model_opens_with_plain_peft(base: Path, tmp_path: Path, name: str, start: str) -> None:
    first = open_policy(base, base, None, adapter(name))
    jolt(first)
    first.save(tmp_path / "policy")
    source = base if start == "base" else tmp_path / "policy"
    layers = None if name == "prefix" and start == "policy" else 2
    reward = new_reward_model(source, base, None, adapter(name), layers=layers, seed=0)
    assert any(".score." in n for n in reward.trainable())
    jolt(reward)
    reward.save(tmp_path / "reward")
    config = AutoConfig.from_pretrained(tmp_path / "reward")
    plain = AutoModelForSequenceClassification.from_pretrained(base, config=config)
    peft = PeftModel.from_pretrained(plain, str(tmp_path / "reward")).eval()
    want = []
    for row in ROWS:
        for response in row.responses:
            ids = torch.tensor([[*row.prompt, *response.ids]])
            want.append(peft(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 0])
    again = open_reward_model(_Artifact(tmp_path / "reward"), base, None)  # type: ignore[arg-type]
    for opened in (reward, again):
        torch.testing.assert_close(opened.scores(pack(ROWS)), torch.stack(want), rtol=1e-5, atol=1e-5)
    critic = critic_of(again)
    torch.testing.assert_close(
        critic.features(pack(ROWS)).detach(), _scored(reward).detach(), rtol=1e-5, atol=1e-5
    )
    before = again.scores(pack(ROWS)).detach()
    with torch.no_grad():
        for p in critic.trainable().values():
            p.add_(0.1)
    assert torch.equal(again.scores(pack(ROWS)), before), "the critic's steps moved the reward"


class _Artifact(Artifact):
    """An artifact of which only the folder counts."""

    def __init__(self, path: Path) -> None:
        object.__setattr__(self, "path", path)


def _scored(reward: RewardModel) -> Tensor:
    from align.engine.forward import states

    return states(reward.plain.base_model, pack(ROWS)).scored


def test_a_policys_adapter_comes_along_into_the_reward_model(base: Path, tmp_path: Path) -> None:
    for name in ("pissa", "ia3", "prompt"):
        first = open_policy(base, base, None, adapter(name))
        jolt(first)
        first.save(tmp_path / name)
        reward = new_reward_model(tmp_path / name, base, None, adapter(name), layers=None, seed=0)
        batch = pack(ROWS)
        from align.engine.forward import states

        want = states(first.plain.base_model, batch).last
        torch.testing.assert_close(states(reward.plain.base_model, batch).last, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["pissa", "olora", "ia3", "dora-pissa"])
def test_merged_weights_answer_the_same(base: Path, tmp_path: Path, name: str) -> None:
    policy = open_policy(base, base, None, adapter(name))
    jolt(policy)
    policy.save(tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    _merge(tmp_path / "adapter", tmp_path / "merged", "policy")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(alone(merged), policy.logps(pack(ROWS))[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["prompt", "prefix"])
def test_virtual_tokens_do_not_merge(base: Path, tmp_path: Path, name: str) -> None:
    open_policy(base, base, None, adapter(name)).save(tmp_path)
    with pytest.raises(ConfigError, match="merge=true: virtual tokens of .* are no change of weights"):
        _merge(tmp_path, tmp_path, "policy")


def test_virtual_tokens_count_in_the_budget(base: Path) -> None:
    policy = open_policy(base, base, None, adapter("prompt"))
    assert policy.budget(100) == Budget(100, virtual=5)
    prefix = open_policy(base, base, None, adapter("prefix"))
    assert prefix.budget(100) == Budget(100, padded=True, virtual=5)
    # unique tokens 8, 3, 10 and 5 virtual ones each: 13, 8, 15
    assert len(cut(ROWS, Budget(21, virtual=5))) == 2
    assert len(cut(ROWS, Budget(20, virtual=5))) == 3
    assert len(cut(ROWS, Budget(21))) == 1


def test_what_a_base_does_not_have_is_refused(base: Path) -> None:
    def refused(match: str, **given: Any) -> None:
        with pytest.raises(ConfigError, match=match):
            open_policy(base, base, None, TypeAdapter(AnyAdapter).validate_python(given))

    refused("adapter.targets: 'query' names no module; choose from .*q_proj", kind="ia3", targets=["query"])
    refused(
        "adapter.r: 40, and adapter.init=pissa finds 32 directions in .*; try adapter.r=32",
        kind="lora", r=40, init="pissa",
    )  # fmt: skip
    open_policy(base, base, None, NoAdapter(kind="none"))


def test_a_base_whose_rows_hold_no_whole_blocks_is_refused_before_it_is_read(base: Path) -> None:
    given = LoraAdapter(kind="lora", quantize_base="nf4")
    with pytest.raises(ConfigError) as caught:
        check_adapter(base, given)
    assert str(caught.value) == (
        "adapter.quantize_base: blocks of 64 weights do not fit the 32 inputs of 0.self_attn.q_proj; "
        "use another model, or adapter.quantize_base=null"
    )
    check_adapter(base, given.model_copy(update={"quantize_base": None}))
