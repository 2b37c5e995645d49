"""A base in 4 bits: what is rounded, forwards against plain peft on rounded weights, what is saved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from align.config.schema import LoraAdapter, TinyModel
from align.data.types import Response, TokenRow
from align.engine import flat
from align.engine.batch import pack
from align.errors import ConfigError, NumericsError
from align.models.policy import Policy, open_policy
from align.models.reward_model import RewardModel, new_reward_model
from align.models.sources import materialise

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora"},
    "rslora": {"kind": "lora", "rslora": True, "init": "gaussian"},
    "dora": {"kind": "dora"},
}
ROWS = [
    TokenRow("a", (5, 6, 7), (Response((8, 9, 2), (1.0,) * 3), Response((10, 2), (1.0,) * 2))),
    TokenRow("b", (9,), (Response((4, 2), (1.0,) * 2),)),
    TokenRow("c", (9, 3, 5, 7, 11), (Response((4, 12, 13, 2), (1.0,) * 4), Response((3,), (1.0,)))),
]
# The 16 values of NF4: appendix E of arXiv:2305.14314.
NF4 = torch.tensor(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
        0.7229568362236023, 1.0,
    ]
)  # fmt: skip
BLOCK = 64


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama whose rows hold whole blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGN_CACHE", str(tmp_path_factory.mktemp("cache")))
        return materialise(TinyModel(kind="tiny", hidden=64, layers=3, heads=4))


def qlora(name: str = "lora", quantized: bool = True) -> LoraAdapter:
    return LoraAdapter(r=4, alpha=4, quantize_base="nf4" if quantized else None, **KINDS[name])


def jolt(opened: Policy | RewardModel) -> None:
    """Change everything that learns."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in opened.trainable().values():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))


def weighted(values: Tensor) -> Tensor:
    return (values * torch.linspace(-1, 2, len(values))).sum()


def layers_of(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of the decoder, not of an adapter."""
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    return {
        n.replace(".base_layer", ""): m for n, m in linear.items() if ".layers." in n and ".lora_" not in n
    }


def unpacked(layer: nn.Linear) -> Tensor:
    found: Tensor = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)  # type: ignore[union-attr]
    return found


def rounded(model: nn.Module) -> Any:
    """A plain model with rounded weights, in float32."""
    for layer in layers_of(model).values():
        packed, state = bitsandbytes.functional.quantize_4bit(
            layer.weight.data, quant_type="nf4", compress_statistics=True
        )
        layer.weight.data = bitsandbytes.functional.dequantize_4bit(packed, state)
    return model


def alone(model: Any) -> Tensor:
    """Log-probs of all answer tokens by the model's own forward, one sequence at a time, nothing padded."""
    found = []
    for row in ROWS:
        for response in row.responses:
            logps = model(input_ids=torch.tensor([[*row.prompt, *response.ids]])).logits[0].log_softmax(-1)
            found += [logps[len(row.prompt) - 1 + i, token] for i, token in enumerate(response.ids)]
    return torch.stack(found)


def scores_alone(model: Any) -> Tensor:
    sequences = [[*row.prompt, *response.ids] for row in ROWS for response in row.responses]
    return torch.stack([model(input_ids=torch.tensor([ids])).logits[0, 0] for ids in sequences])


def near(got: Tensor, want: Tensor, name: str = "") -> None:
    assert float((got - want).norm()) <= 1e-5 * max(1e-3, float(want.norm())), name


def test_weights_are_the_nearest_values_of_nf4_and_their_scales_are_rounded_too(base: Path) -> None:
    policy = open_policy(base, base, None, qlora())
    plain = layers_of(AutoModelForCausalLM.from_pretrained(base))
    layers = {n.removeprefix("base_model.model."): m for n, m in layers_of(policy.model).items()}
    assert layers.keys() == plain.keys()
    gaps = []
    for name, layer in layers.items():
        blocks, exact = (w.reshape(-1, BLOCK) for w in (unpacked(layer), plain[name].weight.data))
        scale, largest = (x.abs().amax(1, keepdim=True) for x in (blocks, exact))
        nearest = NF4[((exact / largest)[..., None] - NF4).abs().argmin(-1)]
        torch.testing.assert_close(blocks / scale, nearest, rtol=0, atol=1e-5)
        gaps.append((scale / largest - 1).abs())
    gap = torch.cat(gaps)
    assert 0 < float(gap.mean()) < 0.02, "scales in 8 bits are near, and not equal"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_the_decoders_linear_layers_are_rounded(base: Path, dtype: Any) -> None:
    policy = open_policy(base, base, None, qlora(), dtype=dtype)
    reward = new_reward_model(base, base, None, qlora(), layers=2, seed=0, dtype=dtype)
    for opened, count in ((policy, 3 * 7), (reward, 2 * 7)):
        packed = [m for m in opened.model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
        assert len(packed) == count
        assert all(m.compute_dtype == getattr(torch, dtype) for m in packed)
        assert {p.dtype for p in opened.trainable().values()} == {torch.float32}
        kept = [p for n, p in opened.plain.named_parameters() if "embed_tokens" in n or "norm" in n]
        assert {p.dtype for p in kept} == {getattr(torch, dtype)}
    assert type(policy.plain.get_output_embeddings()) is nn.Linear
    full = open_policy(base, base, None, qlora(quantized=False))
    assert policy.sizes() == full.sizes()


@pytest.mark.parametrize("name", KINDS)
def test_flat_padded_and_plain_peft_on_rounded_weights_agree(base: Path, tmp_path: Path, name: str) -> None:
    policy = open_policy(base, base, None, qlora(name))
    assert flat.is_prepared(policy.plain.base_model), "the probe lets it take streams"
    jolt(policy)
    policy.save(tmp_path)
    plain = rounded(AutoModelForCausalLM.from_pretrained(base))
    peft = PeftModel.from_pretrained(plain, str(tmp_path), is_trainable=True)
    want = alone(peft)
    weighted(want).backward()
    grads = {n: p.grad for n, p in peft.named_parameters() if p.requires_grad}
    again = open_policy(tmp_path, base, None, qlora(name))
    for path in (flat.prepare, flat.release):
        path(again.plain.base_model)
        got = again.logps(pack(ROWS))[0]
        weighted(got).backward()
        near(got.detach(), want.detach())
        assert set(again.trainable()) == set(grads)
        for n, p in again.trainable().items():
            assert p.grad is not None
            near(p.grad, grads[n], n)  # type: ignore[arg-type]
            p.grad = None


def test_what_is_saved_is_what_the_base_as_it_is_would_get(base: Path, tmp_path: Path) -> None:
    for folder, adapter in (("four", qlora()), ("whole", qlora(quantized=False))):
        policy = open_policy(base, base, None, adapter)
        reward = new_reward_model(base, base, None, adapter, layers=2, seed=0)
        for kind, opened in (("policy", policy), ("reward", reward)):
            jolt(opened)
            (tmp_path / folder / kind).mkdir(parents=True)
            opened.save(tmp_path / folder / kind)
    for kind in ("policy", "reward"):
        files = sorted(path.name for path in (tmp_path / "whole" / kind).iterdir())
        assert sorted(path.name for path in (tmp_path / "four" / kind).iterdir()) == files
        for name in files:
            one, other = (tmp_path / folder / kind / name for folder in ("four", "whole"))
            assert one.read_bytes() == other.read_bytes(), name
    read = open_policy(tmp_path / "four" / "policy", base, None, None)
    plain = AutoModelForCausalLM.from_pretrained(base)
    near(
        read.logps(pack(ROWS))[0], alone(PeftModel.from_pretrained(plain, str(tmp_path / "four" / "policy")))
    )


def test_a_reward_model_scores_as_plain_peft_on_rounded_weights(base: Path, tmp_path: Path) -> None:
    reward = new_reward_model(base, base, None, qlora(), layers=2, seed=0)
    jolt(reward)
    reward.save(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    plain = rounded(AutoModelForSequenceClassification.from_pretrained(base, config=config))
    near(reward.scores(pack(ROWS)).detach(), scores_alone(PeftModel.from_pretrained(plain, str(tmp_path))))


def test_the_reference_is_the_same_base_with_the_adapter_it_began_with(base: Path) -> None:
    policy = open_policy(base, base, None, qlora())
    before = policy.logps(pack(ROWS))[0].detach()
    near(before, alone(rounded(AutoModelForCausalLM.from_pretrained(base))).detach())
    policy.keep_reference()
    jolt(policy)
    assert torch.equal(policy.ref_logps(pack(ROWS)), before)
    assert not torch.allclose(policy.logps(pack(ROWS))[0], before, atol=1e-3)


def test_weights_are_never_repacked_for_a_product_without_gradients(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    policy = open_policy(base, base, None, qlora())  # whose probe runs without gradients
    packed = [m for m in policy.model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert packed
    assert not any(getattr(m.weight.quant_state, "packing_format_for_cpu", False) for m in packed)
    with torch.no_grad():
        policy.logps(pack(ROWS))
    assert not any(getattr(m.weight.quant_state, "packing_format_for_cpu", False) for m in packed)


def test_a_weight_that_is_not_finite_is_not_rounded_away(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.self_attn.q_proj.weight"][3, 5] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NumericsError, match="layers.1.self_attn.q_proj.weight holds 1 values"):
        open_policy(folder, folder, None, qlora())


def test_rows_that_end_within_a_block_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path))
    narrow = materialise(TinyModel(kind="tiny", hidden=32, layers=1, heads=4))
    with pytest.raises(ConfigError, match="blocks of 64 weights do not fit the 32 inputs of 0.self_attn"):
        open_policy(narrow, narrow, None, qlora())
