"""The cache by hand, and attention of one token a row by its definition."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import build

from align.data.types import Response, TokenRow
from align.engine import decode, flat
from align.engine.attention import Form
from align.engine.batch import pack
from align.engine.decode import KVCache, Prompts, Step

LENGTHS = [4, 1, 6]  # keys of the rows so far


def prompts(*lengths: int) -> Any:
    """What `put` reads of prompts of these lengths, of two layers with G = 2, E = 4."""
    ends = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    kept = [(torch.randn(2, ends[-1], 4), torch.randn(2, ends[-1], 4)) for _ in range(2)]
    return SimpleNamespace(ends=ends, kept=kept)


def test_rows_begin_with_their_prompts_and_keep_them_when_moved_and_when_the_cache_grows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decode, "BLOCK", 4)
    torch.manual_seed(0)
    given, cache = prompts(3, 5), KVCache(slots=3, most=11)
    assert (cache.put(0, given, 1), cache.room) == (5, 8)
    assert (cache.put(2, given, 0), cache.room) == (3, 8)
    cache.move(2, 1, 3)
    cache.reserve(9)
    assert cache.room == 11, "half more, in blocks of 4, but no more than a row can need"
    for (keys, values), (all_keys, all_values) in zip(cache.layers, given.kept, strict=True):
        assert (keys.shape, values.shape) == ((3, 2, 11, 4), (3, 2, 11, 4))
        for store, stream in ((keys, all_keys), (values, all_values)):
            assert torch.equal(store[0, :, :5], stream[:, 3:8])
            assert torch.equal(store[1, :, :3], stream[:, :3])
            assert torch.equal(store[2, :, :3], stream[:, :3])
            assert not store[0, :, 5:].any()


@pytest.mark.parametrize("lengths", [LENGTHS, [3, 3, 3]], ids=["uneven", "even"])
@pytest.mark.parametrize(("window", "cap"), [(None, None), (3, None), (None, 1.5), (3, 1.5), (7, None)])
def test_a_token_sees_its_rows_keys_and_itself(
    lengths: list[int], window: int | None, cap: float | None
) -> None:
    torch.manual_seed(0)
    cache = KVCache(slots=5, most=16)
    given = prompts(*lengths)
    for slot in range(3):
        cache.put(slot, given, slot)
    step = Step(cache, lengths, torch.device("cpu"))
    assert step.depths.tolist() == lengths
    for keys, values in given.kept:  # layer after layer
        q, k, v = torch.randn(4, 3, 4), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
        got = step.attend(q, k, v, Form(0.5, window, cap))
        for row, length in enumerate(lengths):
            start, end = given.ends[row : row + 2]
            mine = torch.cat([keys[:, start:end], k[:, row, None]], 1)
            weights = torch.cat([values[:, start:end], v[:, row, None]], 1)
            if window is not None:
                mine, weights = mine[:, -window:], weights[:, -window:]
            scores = 0.5 * torch.einsum("he,hje->hj", q[:, row], mine.repeat_interleave(2, 0))
            scores = cap * torch.tanh(scores / cap) if cap else scores
            want = torch.einsum("hj,hje->he", scores.softmax(-1), weights.repeat_interleave(2, 0))
            torch.testing.assert_close(got[:, row], want)
            assert length == end - start


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "mistral-windowed", "gemma3", "gpt2"])
def test_token_by_token_is_the_flat_forward(name: str) -> None:
    model = build(name)
    body = model.base_model
    flat.prepare(body)
    texts = [(3, 4, 5, 6, 7, 8, 9, 10, 11, 12), (20, 21, 22), (5, 9, 5, 9, 5, 9)]
    starts = [6, 1, 4]
    kept = Prompts(body, [text[:start] for text, start in zip(texts, starts, strict=True)])
    cache, lengths = KVCache(slots=4, most=10), list(starts)
    for slot in range(3):
        assert cache.put(slot, kept, slot) == starts[slot]
    found = [[kept.states[i]] for i in range(3)]
    for _ in range(2):
        ids = torch.tensor([text[length] for text, length in zip(texts, lengths, strict=True)])
        step = Step(cache, lengths, torch.device("cpu"))
        for i, state in enumerate(flat.run(body, ids, step.depths, step)):
            found[i].append(state)
        lengths = [length + 1 for length in lengths]
    for text, start, states in zip(texts, starts, found, strict=True):
        whole = pack([TokenRow("a", text[:1], (Response(text[1 : start + 2], (1.0,) * (start + 1)),))])
        want = flat.hidden_states(body, whole)[start - 1 :]
        torch.testing.assert_close(torch.stack(states), want, rtol=1e-5, atol=1e-5)
