"""Noise on embeddings: its size by hand, and that of a row whatever it is batched with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from align.data.types import Response, TokenRow
from align.engine import flat, virtual
from align.engine.batch import pack
from align.engine.forward import states
from align.engine.noise import neftune

WIDTH = 16


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=31, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def row(name: str, prompt: int, answer: int) -> TokenRow:
    ids = [(7 * i + len(name)) % 31 for i in range(prompt + answer)]
    return TokenRow(name, tuple(ids[:prompt]), (Response(tuple(ids[prompt:]), (1.0,) * answer),))


ROWS = [row("a", 3, 5), row("bb", 1, 2), row("ccc", 9, 30)]


def noise_of(
    model: LlamaForCausalLM, rows: list[TokenRow], step: int = 4, seed: int = 1
) -> dict[str, Tensor]:
    """What is added to the embeddings of each row, as the first layer sees it."""
    batch, seen = pack(rows), []
    handle = model.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        states(model.model, batch)
        with neftune(model, batch, 5.0, seed, step):
            states(model.model, batch)
        states(model.model, batch)
    handle.remove()
    assert torch.equal(seen[0], seen[2]), "behind the block there is none"
    added = seen[1] - seen[0]
    lengths = batch.lengths.tolist()
    parts = added[0].split(lengths) if flat.is_prepared(model.model) else added
    return {r.id: part[:n] for r, part, n in zip(rows, parts, lengths, strict=True)}


@pytest.mark.parametrize("stream", [True, False])
def test_size_and_spread_are_those_of_the_paper(model: LlamaForCausalLM, stream: bool) -> None:
    if stream:
        flat.prepare(model.model)
    for name, noise in noise_of(model, ROWS).items():
        length = sum(map(len, (r.prompt + r.responses[0].ids for r in ROWS if r.id == name)))
        bound = 5.0 / math.sqrt(length * WIDTH)
        assert noise.shape == (length, WIDTH)
        assert float(noise.abs().max()) <= bound * 1.001
        assert float(noise.abs().max()) >= bound * 0.9
        assert float(noise.std()) == pytest.approx(bound / math.sqrt(3), rel=0.3)


def test_a_row_has_the_same_noise_alone_and_in_any_batch_on_both_paths(model: LlamaForCausalLM) -> None:
    padded = noise_of(model, ROWS)
    flat.prepare(model.model)
    together, turned = noise_of(model, ROWS), noise_of(model, ROWS[::-1])
    for r in ROWS:
        alone = noise_of(model, [r])[r.id]
        for other in (padded, together, turned):
            torch.testing.assert_close(other[r.id], alone, rtol=0, atol=1e-6)


def test_step_seed_and_row_each_draw_anew(model: LlamaForCausalLM) -> None:
    twins = [ROWS[0], TokenRow("z", ROWS[0].prompt, ROWS[0].responses)]
    first = noise_of(model, twins)
    assert not torch.allclose(first["a"], first["z"], atol=1e-3)
    assert not torch.allclose(first["a"], noise_of(model, twins, step=5)["a"], atol=1e-3)
    assert not torch.allclose(first["a"], noise_of(model, twins, seed=2)["a"], atol=1e-3)
    assert torch.equal(first["a"], noise_of(model, twins)["a"])
    one, other = (noise_of(model, twins, step=step, seed=seed) for seed, step in ((1, 23), (12, 3)))
    assert not torch.allclose(one["a"], other["a"], atol=1e-3), "not even where the digits are the same"


@pytest.mark.parametrize("stream", [True, False])
def test_embeddings_that_an_adapter_puts_before_a_row_get_none(model: LlamaForCausalLM, stream: bool) -> None:
    """A row's noise stands behind the learned embeddings, and is that of the row without them."""
    if stream:
        assert flat.prepare(model.model)
    plain, batch, seen = noise_of(model, ROWS), pack(ROWS), []
    virtual.use_tokens(model.model, lambda: torch.ones(2, WIDTH), 2)
    handle = model.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        states(model.model, batch)
        with neftune(model, batch, 5.0, 1, 4):
            states(model.model, batch)
    handle.remove()
    added, lengths = seen[1] - seen[0], [2 + n for n in batch.lengths.tolist()]
    parts = added[0].split(lengths) if stream else added
    for row, part, length in zip(ROWS, parts, lengths, strict=True):
        assert not part[:2].any()
        torch.testing.assert_close(part[2:length], plain[row.id], rtol=0, atol=1e-6)
