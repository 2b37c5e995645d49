"""The flat forward against the padded one: numbers, gradients, and that sequences do not see one another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import CONFIGS, build
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from align.data.types import Response, TokenRow
from align.engine import attention, flat, padded
from align.engine.attention import Form, Segment, flat_attention, layout
from align.engine.batch import TokenBatch, pack
from align.engine.head import token_logps


def rows(seed: int = 0, count: int = 5) -> list[TokenRow]:
    """Prompts of 1 to 19 tokens with one to three responses of 1 to 14."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    def text(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(3, 61) for _ in range(draw(low, high)))

    found = []
    for number in range(count):
        answers = [text(1, 15) for _ in range(draw(1, 4))]
        responses = tuple(Response(ids, (1.0,) * len(ids)) for ids in answers)
        found.append(TokenRow(str(number), text(1, 20), responses))
    return found


def logps(path: Any, model: PreTrainedModel, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Log-probs of the scored tokens, and the states at each sequence's last token."""
    states = path.hidden_states(model.base_model, batch)
    scored = states[path.index(batch, batch.scored_in, batch.scored_at)]
    last = states[path.index(batch, torch.arange(batch.sequences), batch.lengths - 1)]
    return token_logps(scored, model.get_output_embeddings(), batch.targets)[0], last


def measured(
    path: Any, model: PreTrainedModel, batch: TokenBatch
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Log-probs, last states, and all gradients of a sum in which every number has its own weight."""
    model.zero_grad()
    scored, last = logps(path, model, batch)
    total = (scored * torch.linspace(-1, 1, len(scored))).sum()
    total = total + (last * torch.linspace(-1, 1, last.numel()).view_as(last)).sum()
    total.backward()
    return (
        scored.detach(),
        last.detach(),
        {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
    )


def close(got: Tensor, want: Tensor) -> None:
    assert float((got - want).norm()) <= 1e-5 * float(want.norm())


def same(model: PreTrainedModel) -> None:
    """Both paths agree in every number."""
    batch = pack(rows(), score_all=True)
    want = measured(padded, model, batch)
    assert flat.prepare(model.base_model)
    got = measured(flat, model, batch)
    close(got[0], want[0])
    close(got[1], want[1])
    assert set(got[2]) == set(want[2])
    largest = max(float(grad.norm()) for grad in want[2].values())
    for name, grad in want[2].items():
        # A key's bias moves all scores of a query alike: its gradient is mere rounding.
        assert float((got[2][name] - grad).norm()) <= 1e-5 * max(float(grad.norm()), 1e-2 * largest), name


@pytest.mark.parametrize("name", CONFIGS)
def test_both_paths_agree(name: str) -> None:
    same(build(name))


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_both_paths_agree_with_checkpointed_layers(name: str) -> None:
    model = build(name)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    same(model)


@pytest.mark.parametrize("name", ["llama", "gpt-neox"])
def test_both_paths_agree_under_an_adapter(name: str) -> None:
    model = get_peft_model(build(name), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    same(model.get_base_model())
    assert any("lora_" in n and p.grad is not None for n, p in model.named_parameters())


def test_gradients_flow_to_every_weight_of_every_layer() -> None:
    model = build("llama")
    flat.prepare(model.base_model)
    grads = measured(flat, model, pack(rows(), score_all=True))[2]
    assert set(grads) == {n for n, _ in model.named_parameters()}
    assert all(grad.abs().max() > 0 for grad in grads.values())


def test_changing_one_sequence_changes_no_bit_of_another() -> None:
    model = build("llama")
    flat.prepare(model.base_model)
    before = rows()
    other = before[1].responses[0]
    ids = tuple(3 + (token + 7) % 50 for token in other.ids)
    changed = TokenRow("1", before[1].prompt, (Response(ids, other.weights), *before[1].responses[1:]))
    after = [before[0], changed, *before[2:]]
    first, second = pack(before, score_all=True), pack(after, score_all=True)
    with torch.no_grad():
        a, b = logps(flat, model, first)[0], logps(flat, model, second)[0]
    sequence = len(before[0].responses)  # the one that changed
    mine = first.scored_in == sequence
    assert not torch.equal(a[mine], b[mine])
    assert torch.equal(a[~mine], b[~mine])


def test_order_and_cut_of_a_batch_do_not_matter() -> None:
    model = build("llama")
    flat.prepare(model.base_model)
    found = rows()
    with torch.no_grad():
        whole = logps(flat, model, pack(found, score_all=True))[0]
        alone = [logps(flat, model, pack([row], score_all=True))[0] for row in found]
        turned = logps(flat, model, pack(found[::-1], score_all=True))[0]
    torch.testing.assert_close(torch.cat(alone), whole, rtol=1e-5, atol=1e-5)
    sizes = [len(part) for part in reversed(alone)]
    torch.testing.assert_close(torch.cat(turned.split(sizes)[::-1]), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_prepared_model_does_all_else_as_before(name: str, tmp_path: Any) -> None:
    model = build(name)
    ids = torch.tensor([[0, 0, 5, 6, 7], [3, 4, 5, 6, 7]])
    mask = (ids > 0).long()
    want = model(input_ids=ids, attention_mask=mask).logits[:, -1]
    told = model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False)
    flat.prepare(model.base_model)
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits[:, -1], want)
    assert torch.equal(model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False), told)
    model.save_pretrained(tmp_path)
    assert flat.PREFIX not in (tmp_path / "config.json").read_text()


def test_layout_by_hand() -> None:
    # a prompt [0, 3) with responses [3, 5) and [5, 6), then a prompt [6, 7) with response [7, 9)
    how = layout(torch.tensor([[0, 3, 3, 5], [0, 3, 5, 6], [6, 7, 7, 9]]))
    assert how.segments == (Segment(0, 5, 0), Segment(5, 6, 5, (0, 3)), Segment(6, 9, 6))
    assert how.depths.tolist() == [0, 1, 2, 3, 4, 3, 0, 1, 2]


def test_long_sequences_are_cut_into_blocks_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 4)
    how = layout(torch.tensor([[0, 3, 3, 5], [0, 3, 5, 14]]))
    assert how.segments == (
        Segment(0, 4, 0), Segment(4, 5, 0),
        Segment(5, 9, 5, (0, 3)), Segment(9, 13, 5, (0, 3)), Segment(13, 14, 5, (0, 3)),
    )  # fmt: skip
    assert how.depths.tolist() == [0, 1, 2, 3, 4, *range(3, 12)]


@pytest.mark.parametrize(("block", "kept"), [(2, 256), (256, 256), (2, 0), (2, 4)])
@pytest.mark.parametrize(("window", "cap"), [(None, None), (2, None), (None, 1.5), (2, 1.5)])
def test_attention_by_definition(
    monkeypatch: pytest.MonkeyPatch, window: int | None, cap: float | None, block: int, kept: int
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(attention, "BLOCK", block)
    monkeypatch.setattr(attention, "KEPT", kept)
    how = layout(torch.tensor([[0, 3, 3, 5], [0, 3, 5, 7], [7, 8, 8, 10]]))
    q, k, v = (torch.randn(heads, 10, 4, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2))
    sees = {5: [0, 1, 2, 5], 6: [0, 1, 2, 5, 6]}  # the second response; all else sees its own trie
    lines = []
    for i in range(10):
        keys = sees.get(i, [j for j in range(i + 1) if (j >= 7) == (i >= 7)])
        keys = keys[-window:] if window else keys
        scores = torch.einsum("he,hje->hj", q[:, i], k[:, keys].repeat_interleave(2, 0)) * 0.5
        scores = cap * torch.tanh(scores / cap) if cap else scores
        lines.append(torch.einsum("hj,hje->he", scores.softmax(-1), v[:, keys].repeat_interleave(2, 0)))
    want = torch.stack(lines, 1)
    got = flat_attention(q, k, v, how.segments, Form(0.5, window, cap))
    torch.testing.assert_close(got, want)
    weight = torch.randn_like(want)
    for a, b in zip(*(torch.autograd.grad((x * weight).sum(), (q, k, v)) for x in (got, want)), strict=True):
        torch.testing.assert_close(a, b)


def test_attention_in_bfloat16_rounds_what_comes_out_alone() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 96, 8).bfloat16() for _ in range(3))
    how = layout(torch.tensor([[0, 40, 40, 96]]))
    got, _ = flat._attention("sdpa", torch.nn.Identity(), q, k, v, None, align_layout=how)
    exact = torch.nn.functional.scaled_dot_product_attention(*(x.double() for x in (q, k, v)), is_causal=True)
    assert got.dtype == torch.bfloat16
    same = got[0] == exact[0].transpose(0, 1).bfloat16()
    assert float(same.float().mean()) > 0.99


def test_no_mask_is_built_for_a_stream() -> None:
    with flat._stream():
        assert flat._mask("sdpa", "of N x N", "numbers") is None
