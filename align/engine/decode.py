"""Decoding on the flat engine: prompts as a stream, then one token of each row a step.

The model runs as in `engine.flat`. What differs is attention: a prompt's keys and values are kept as they
pass, a row's stand in a slot of a `KVCache` and are written in place, and a new token sees those of its row.

Shapes: S rows in slots 0 to S - 1, H heads of queries, G of keys, E their size, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from align.engine import flat
from align.engine.attention import Form, flat_attention, layout

BLOCK = 128  # positions: the cache grows by whole blocks, and by half, so that it is copied rarely
GROWTH = 1.5


class Prompts:
    """Prompts side by side in a stream: causal attention within each, keys and values kept.

    Attributes:
        ends: [P + 1] where prompts start and end in the stream.
        kept: Of each layer, keys and values [G, N, E].
        states: [P, D] last hidden states at the last token of each.
    """

    def __init__(self, body: nn.Module, prompts: Sequence[Sequence[int]]) -> None:
        ids = torch.tensor([token for prompt in prompts for token in prompt])
        self.ends = [0]
        for prompt in prompts:
            self.ends.append(self.ends[-1] + len(prompt))
        ends = torch.tensor(self.ends)
        self._layout = layout(torch.stack([ends[:-1], ends[1:], ends[1:], ends[1:]], 1))
        self.kept: list[tuple[Tensor, Tensor]] = []
        found = flat.run(body, ids, self._layout.depths, self)
        self.states = found[(ends[1:] - 1).to(found.device)]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, form: Form) -> Tensor:
        """See `flat.Attends`."""
        self.kept.append((k.contiguous(), v.contiguous()))
        return flat_attention(q.float(), k.float(), v.float(), self._layout.segments, form)


class KVCache:
    """Keys and values of rows, each row in its slot.

    Attributes:
        slots: Rows that it has place for.
        most: Positions that a row can ever need.
        room: Positions allocated so far.
        layers: Of each layer, keys and values [slots, G, room, E].
    """

    def __init__(self, slots: int, most: int) -> None:
        self.slots, self.most, self.room = slots, most, 0
        self.layers: list[tuple[Tensor, Tensor]] = []

    def reserve(self, length: int) -> None:
        """Have room for rows of so many positions."""
        if length <= self.room:
            return
        room = max(length, int(GROWTH * self.room))
        self.room = min(self.most, -(-room // BLOCK) * BLOCK)
        for number, (keys, values) in enumerate(self.layers):
            self.layers[number] = self._grown(keys), self._grown(values)

    def put(self, slot: int, prompts: Prompts, number: int) -> int:
        """Let a row begin with one of the prompts.

        Returns:
            The prompt's length.
        """
        start, end = prompts.ends[number : number + 2]
        self.reserve(end - start)
        if not self.layers:
            self.layers = [
                (self._zeros(keys[None]), self._zeros(values[None])) for keys, values in prompts.kept
            ]
        for layer, given in zip(self.layers, prompts.kept, strict=True):
            for store, stream in zip(layer, given, strict=True):
                store[slot, :, : end - start] = stream[:, start:end]
        return end - start

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row of so many positions into another slot."""
        for layer in self.layers:
            for store in layer:
                store[target, :, :length] = store[source, :, :length]

    def _zeros(self, like: Tensor) -> Tensor:
        # Zeros, since what lies behind a row's end is multiplied by probabilities of 0.
        return like.new_zeros(self.slots, like.shape[1], self.room, like.shape[3])

    def _grown(self, store: Tensor) -> Tensor:
        larger = self._zeros(store)
        larger[:, :, : store.shape[2]] = store
        return larger


class Step:
    """The next token of each row: it is written behind the row's keys, and sees them and itself.

    Attributes:
        depths: [S] position of the token in its row.
    """

    def __init__(self, cache: KVCache, lengths: Sequence[int], device: torch.device) -> None:
        self.rows, self.longest, self.shortest = len(lengths), max(lengths) + 1, min(lengths) + 1
        cache.reserve(self.longest)
        self.depths = torch.tensor(lengths, device=device)
        self._room, self._layers = cache.room, iter(cache.layers)
        self._places: dict[int, Tensor] = {}
        self._masks: dict[int | None, Tensor | None] = {}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, form: Form) -> Tensor:
        """See `flat.Attends`; each call is the next layer's."""
        heads, groups, size = len(q), len(k), q.shape[-1]
        stores = next(self._layers)
        keys, values = self._written(stores[0], k).float(), self._written(stores[1], v).float()
        queries = q.transpose(0, 1).reshape(self.rows * groups, heads // groups, size).float() * form.scale
        scores = torch.bmm(queries, keys.mT)
        if form.cap is not None:
            scores.div_(form.cap).tanh_().mul_(form.cap)
        mask = self._mask(form.window)
        if mask is not None:
            scores.view(self.rows, -1, self.longest).add_(mask)
        out = torch.bmm(scores.softmax(-1), values)
        return out.view(self.rows, heads, size).transpose(0, 1)

    def _written(self, store: Tensor, new: Tensor) -> Tensor:
        """[S * G, longest, E] of the rows, with the new ones [G, S, E] in their places."""
        groups, size = len(new), new.shape[-1]
        if groups not in self._places:
            first = torch.arange(self.rows * groups, device=new.device) * self._room
            self._places[groups] = first + self.depths.repeat_interleave(groups)
        store.view(-1, size).index_copy_(0, self._places[groups], new.transpose(0, 1).reshape(-1, size))
        return store.view(-1, self._room, size)[: self.rows * groups, : self.longest]

    def _mask(self, window: int | None) -> Tensor | None:
        """[S, 1, longest] minus infinity where a row has no key or its window ends; None: all are seen."""
        if window is not None and window >= self.longest:
            window = None
        if window not in self._masks:
            self._masks[window] = self._make_mask(window)
        return self._masks[window]

    def _make_mask(self, window: int | None) -> Tensor | None:
        if window is None and self.shortest == self.longest:
            return None
        at, own = torch.arange(self.longest, device=self.depths.device), self.depths[:, None]
        hidden = at > own if window is None else (at > own) | (at <= own - window)
        mask = torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, float("-inf"))
        return mask[:, None]
