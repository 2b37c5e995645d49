"""Virtual tokens: what prompt and prefix tuning put before every sequence.

Prompt tuning (arXiv:2104.08691) learns embeddings. They get ids behind the vocabulary's, so a prompt simply
begins with them: positions, attention, the trie and sampling need no word about it. Prefix tuning
(arXiv:2101.00190) learns keys and values of every layer, which enter as a cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from align.engine.batch import TokenBatch

CACHE = "align_prefix"  # attribute of a model under prefix tuning
BuildCache = Callable[[int], DynamicCache]


class VirtualEmbedding(nn.Module):
    """An embedding with more rows: id `size + i` is virtual token i.

    Attributes:
        own: The model's embedding.
        size: Rows of `own`.
        count: Virtual tokens.
    """

    def __init__(self, own: nn.Module, rows: Callable[[], Tensor], count: int) -> None:
        super().__init__()
        self.own, self.count, self._rows = own, count, rows
        self.size: int = own.weight.shape[0]  # type: ignore[index,assignment]

    @property
    def weight(self) -> Tensor:
        """[size, D] of the model's own embedding, which the head may be tied to."""
        return self.own.weight  # type: ignore[return-value]

    def forward(self, ids: Tensor) -> Tensor:
        """[..., D] of ids [...]."""
        known: Tensor = self.own(ids.clamp(max=self.size - 1))
        virtual = ids >= self.size
        if not bool(virtual.any()):
            return known
        return torch.where(virtual[..., None], self._rows().to(known)[(ids - self.size).clamp(min=0)], known)


def use_tokens(body: Any, rows: Callable[[], Tensor], count: int) -> None:
    """Let `count` virtual tokens stand before every sequence; `rows()` gives their embeddings [count, D]."""
    body.set_input_embeddings(VirtualEmbedding(body.get_input_embeddings(), rows, count))


def use_cache(body: Any, build: BuildCache, count: int) -> None:
    """Let `count` past keys and values stand before every sequence; `build(S)` gives them for S sequences."""
    setattr(body, CACHE, (build, count))


def ids_of(body: Any) -> tuple[int, ...]:
    """Ids that a prompt begins with; none where the model has no virtual tokens."""
    embedding = body.get_input_embeddings()
    if not isinstance(embedding, VirtualEmbedding):
        return ()
    return tuple(range(embedding.size, embedding.size + embedding.count))


def cache_of(body: Any, sequences: int) -> DynamicCache | None:
    """Past keys and values before so many sequences; None where the model has none."""
    found = getattr(body, CACHE, None)
    return None if found is None else found[0](sequences)


def count_of(body: Any) -> int:
    """Virtual tokens and past positions before a sequence."""
    found = getattr(body, CACHE, None)
    return len(ids_of(body)) + (0 if found is None else int(found[1]))


def prepended(body: Any, batch: TokenBatch) -> TokenBatch:
    """The batch as the model reads it: every prompt, once in its trie, begins with the virtual tokens."""
    ids = ids_of(body)
    if not ids:
        return batch
    more = len(ids)
    a, b, c, d = batch.spans.unbind(1)
    starts, trie = torch.unique(a, return_inverse=True)
    first = torch.tensor(ids, dtype=batch.ids.dtype)
    parts = [part for text in batch.ids.tensor_split(starts[1:]) for part in (first, text)]
    before, behind = trie * more, (trie + 1) * more
    return replace(
        batch,
        ids=torch.cat(parts),
        spans=torch.stack([a + before, b + behind, c + behind, d + behind], 1),
        scored_at=batch.scored_at + more,
    )
