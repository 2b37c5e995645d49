"""Policies: what is saved opens with plain transformers and peft, and the reference is the starting point."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.config.schema import LoraAdapter, NoAdapter
from align.data.types import Response, TokenRow
from align.engine.batch import pack
from align.errors import ConfigError, IntegrityError, NumericsError
from align.models import adapters
from align.models.policy import Policy, open_policy

LORA = LoraAdapter(kind="lora", r=4, alpha=8, top_layers=2)
ROWS = [
    TokenRow("a", (5, 6, 7), (Response((8, 9, 2), (1.0, 1.0, 1.0)),)),
    TokenRow("b", (9,), (Response((4, 2), (1.0, 1.0)),)),
]


def fresh(base: Path, adapter: LoraAdapter | NoAdapter | None, seed: int = 0) -> Policy:
    return open_policy(base, base, None, adapter, seed)


def jolt(policy: Policy) -> None:
    """Change everything that learns."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.trainable().values():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))


def logps(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.logps(pack(ROWS))[0]


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapter_opens_with_plain_peft_and_gives_the_same_logits(
    base: Path, tmp_path: Path, kind: str
) -> None:
    policy = fresh(base, LoraAdapter(kind=kind, r=4, alpha=8, top_layers=2))  # type: ignore[arg-type]
    jolt(policy)
    policy.save(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(base)
    opened = PeftModel.from_pretrained(plain, str(tmp_path))
    result = opened.load_adapter(str(tmp_path), adapter_name="again")
    assert not [k for k in result.missing_keys if "again" in k]
    assert not result.unexpected_keys
    ids = torch.tensor([[5, 6, 7, 8, 9, 2]])
    want = opened(input_ids=ids).logits[0].log_softmax(-1)[[2, 3, 4], [8, 9, 2]]
    torch.testing.assert_close(logps(policy)[:3], want, rtol=1e-5, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template


def test_full_weights_open_with_plain_transformers(base: Path, tmp_path: Path) -> None:
    policy = fresh(base, NoAdapter(kind="none"))
    assert not adapters.is_peft(policy.model)
    jolt(policy)
    policy.save(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    want = opened(input_ids=torch.tensor([[9, 4, 2]])).logits[0].log_softmax(-1)[[0, 1], [4, 2]]
    torch.testing.assert_close(logps(policy)[3:], want, rtol=1e-5, atol=1e-5)


def test_only_the_top_layers_learn(base: Path) -> None:
    names = fresh(base, LORA).trainable()
    assert {adapters.layer_of(name) for name in names} == {1, 2}
    assert all("lora_" in name for name in names)


def test_new_adapter_changes_nothing_and_depends_on_the_seed_alone(base: Path) -> None:
    torch.manual_seed(5)
    a = fresh(base, LORA, seed=1)
    torch.manual_seed(6)
    b, c = fresh(base, LORA, seed=1), fresh(base, LORA, seed=2)
    assert torch.equal(logps(a), logps(fresh(base, None)))
    weights = [next(v for n, v in p.trainable().items() if "lora_A" in n) for p in (a, b, c)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("adapter", [LORA, NoAdapter(kind="none")], ids=["lora", "full"])
def test_reference_is_the_starting_point_and_stays(
    base: Path, tmp_path: Path, adapter: LoraAdapter | NoAdapter
) -> None:
    first = fresh(base, adapter)
    jolt(first)
    first.save(tmp_path)
    before = logps(first)
    policy = open_policy(tmp_path, base, None, adapter)
    policy.keep_reference()
    torch.testing.assert_close(logps(policy), before, rtol=1e-6, atol=1e-6)
    assert torch.equal(policy.ref_logps(pack(ROWS)), logps(policy))
    names = set(policy.trainable())
    jolt(policy)
    torch.testing.assert_close(policy.ref_logps(pack(ROWS)), before, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(logps(policy), before, atol=1e-3)
    assert set(policy.trainable()) == names, "switching changed what learns"
    assert not any("reference" in n for n in names)


def test_switching_to_the_reference_keeps_gradients_flowing(base: Path) -> None:
    policy = fresh(base, LORA)
    policy.keep_reference()
    policy.ref_logps(pack(ROWS))
    policy.logps(pack(ROWS))[0].sum().backward()
    assert all(p.grad is not None for p in policy.trainable().values())


def test_a_later_stage_continues_the_same_adapter(base: Path, tmp_path: Path) -> None:
    first = fresh(base, LORA)
    jolt(first)
    first.save(tmp_path / "one")
    second = open_policy(tmp_path / "one", base, None, LORA)
    jolt(second)
    second.save(tmp_path / "two")
    config = json.loads((tmp_path / "two" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base), "the adapter belongs to the original base"
    assert set(load_file(tmp_path / "one" / "adapter_model.safetensors")) == set(
        load_file(tmp_path / "two" / "adapter_model.safetensors")
    )


@pytest.mark.parametrize("damage", ["missing", "left over", "of another shape"])
def test_adapter_that_does_not_fit_is_refused(base: Path, tmp_path: Path, damage: str) -> None:
    policy = fresh(base, LORA)
    policy.save(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    if damage == "missing":
        del tensors[name]
    elif damage == "left over":
        tensors[name.replace("layers.1", "layers.9")] = tensors[name].clone()
    else:
        tensors[name] = tensors[name][:1].clone()
    save_file(tensors, file)
    with pytest.raises(IntegrityError, match=f"adapter tensors {damage}"):
        open_policy(tmp_path, base, None, None)


def test_unknown_target_lists_the_layers(base: Path) -> None:
    with pytest.raises(ConfigError, match="'query' names no linear layer; choose from down_proj, .*v_proj"):
        fresh(base, LoraAdapter(kind="lora", targets=["query"]))


def test_nan_and_missing_weights_are_refused(base: Path, tmp_path: Path) -> None:
    broken = tmp_path / "base"
    shutil.copytree(base, broken)
    tensors = load_file(broken / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name][0, 0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NumericsError, match=f"{name} holds 1 values that are not finite"):
        open_policy(broken, broken, None, None)
    del tensors[name]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=name):
        open_policy(broken, broken, None, None)


def test_the_reference_is_read_without_dropout(base: Path) -> None:
    policy = fresh(base, LoraAdapter(kind="lora", r=4, alpha=8, dropout=0.5))
    jolt(policy)
    policy.keep_reference()
    assert torch.equal(policy.ref_logps(pack(ROWS)), logps(policy))


@pytest.mark.parametrize(
    ("known", "want"), [(None, 2), (2, 2), (1, [1, 2]), ([0, 2], [0, 2]), ([0, 1], [0, 1, 2])]
)
def test_generation_stops_at_the_end_token_of_the_template(
    base: Path, tmp_path: Path, known: object, want: object
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": known, "max_length": 9}))
    policy = open_policy(folder, folder, "chatml", LORA)
    assert policy.template.eos_id == 2
    policy.save(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert saved == {"eos_token_id": want, "max_length": 9}
