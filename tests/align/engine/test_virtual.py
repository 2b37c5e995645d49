"""Virtual tokens in a batch, by hand."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaModel

from align.data.types import Response, TokenRow
from align.engine import virtual
from align.engine.batch import pack

ROWS = [
    TokenRow("a", (5, 6, 7), (Response((8, 9), (1.0, 1.0)), Response((10,), (1.0,)))),
    TokenRow("b", (11,), (Response((12, 13), (0.0, 1.0)),)),
]


def body() -> LlamaModel:
    torch.manual_seed(0)
    return LlamaModel(
        LlamaConfig(
            vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        )
    )


def test_they_stand_once_at_the_start_of_every_trie() -> None:
    model = body()
    virtual.use_tokens(model, lambda: torch.zeros(2, 8), 2)
    batch = virtual.prepended(model, pack(ROWS))
    assert batch.ids.tolist() == [20, 21, 5, 6, 7, 8, 9, 10, 20, 21, 11, 12, 13]
    assert batch.spans.tolist() == [[0, 5, 5, 7], [0, 5, 7, 8], [8, 11, 11, 13]]
    assert batch.scored_in.tolist() == [0, 0, 1, 2]
    assert batch.scored_at.tolist() == [4, 5, 4, 3]
    assert batch.targets.tolist() == pack(ROWS).targets.tolist()
    assert batch.lengths.tolist() == [7, 6, 5]


def test_a_model_without_them_reads_the_batch_as_it_is() -> None:
    batch = pack(ROWS)
    assert virtual.prepended(body(), batch) is batch
    assert (virtual.ids_of(body()), virtual.count_of(body()), virtual.cache_of(body(), 3)) == ((), 0, None)


def test_an_embedding_with_more_rows() -> None:
    model, rows = body(), torch.arange(16.0).view(2, 8).requires_grad_()
    own = model.get_input_embeddings()
    virtual.use_tokens(model, lambda: rows, 2)
    assert (virtual.ids_of(model), virtual.count_of(model)) == ((20, 21), 2)
    found = model.get_input_embeddings()(torch.tensor([[21, 3], [19, 20]]))
    want = torch.stack([rows[1], own.weight[3], own.weight[19], rows[0]]).view(2, 2, 8)
    assert torch.equal(found, want)
    found.sum().backward()
    assert torch.equal(rows.grad, torch.ones(2, 8))


def test_rows_in_float32_stand_in_a_model_in_bfloat16() -> None:
    model, rows = body().bfloat16(), torch.full((2, 8), 0.3, requires_grad=True)
    virtual.use_tokens(model, lambda: rows, 2)
    found = model.get_input_embeddings()(torch.tensor([[21, 3]]))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found[0, 0], rows[1].bfloat16())
    found.sum().backward()
    assert rows.grad is not None
    assert (rows.grad.dtype, rows.grad.tolist()) == (torch.float32, [[0.0] * 8, [1.0] * 8])
