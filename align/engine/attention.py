"""Causal attention over a flat stream of tries: each sequence sees its prompt and itself, and nothing else.

    S = scale Q K^T  (or cap tanh(S / cap)),   P = softmax(S + mask),   O = P V
    dV = P^T dO,   dS = P * (dO V^T - rowsum(dO * O)),   dQ = scale dS K,   dK = scale dS^T Q

(arXiv:2205.14135, Eq. 3 and Appendix B). Each segment is a handful of dense products of the sizes that chats
have, which on CPUs is faster than the fused kernel, whose backward is slow. P of short segments is kept for
the backward pass; that of long ones, which would be large, is computed again. Grouped queries
(arXiv:2305.13245) are rows of one product.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

BLOCK = 128  # queries of one product: more compute what is masked, fewer leave the cores idle
KEPT = 256  # keys: P of segments that see no more is kept for the backward pass, where it is small


@dataclass(frozen=True)
class Segment:
    """Queries that follow one another in the stream, and what they see.

    Attributes:
        start: First query.
        end: Behind the last query.
        begin: First of the keys that follow one another up to the queries' own; query i sees itself and what
            stands before it.
        prefix: Start and end of further keys that every query sees; empty where `begin` begins a trie.
    """

    start: int
    end: int
    begin: int
    prefix: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Form:
    """How a layer attends.

    Attributes:
        scale: Of the products.
        window: A query sees itself and so many tokens less one before it (arXiv:2004.05150); None: all.
        cap: Scores are squashed to +-cap (arXiv:2408.00118); None: they are not.
    """

    scale: float
    window: int | None = None
    cap: float | None = None


@dataclass(frozen=True)
class Layout:
    """How a stream of tries attends.

    Attributes:
        segments: Cover the stream in order.
        depths: [N] position of each token in its sequence.
    """

    segments: tuple[Segment, ...]
    depths: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor, form: Form) -> Tensor:
        """See `flat.Attends`; every layer sees the same. Probabilities rounded to bfloat16 would not do."""
        return flat_attention(q.float(), k.float(), v.float(), self.segments, form)


def layout(spans: Tensor) -> Layout:
    """The segments of a batch.

    Args:
        spans: [S, 4] start and end of prompt and response; a prompt's responses follow it in the stream.
    """
    segments: list[Segment] = []
    depths: list[Tensor] = []
    for a, b, c, d in spans.tolist():
        # The first response stands behind its prompt, and goes with it; others see the prompt as a prefix.
        begin, prefix = (a, (0, 0)) if b == c else (c, (a, b))
        depth = 0 if b == c else b - a
        depths.append(torch.arange(depth, depth + d - begin))
        cuts = [*range(begin, d, BLOCK), d]
        segments += [Segment(s, e, begin, prefix) for s, e in itertools.pairwise(cuts)]
    return Layout(tuple(segments), torch.cat(depths))


class _FlatAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, segments: tuple[Segment, ...], form: Form
    ) -> Tensor:
        q = q * form.scale
        out = torch.empty_like(q)
        kept = []
        for segment in segments:
            queries, keys, values = _of(q, k, v, segment)
            p = _scores(queries, keys, segment, form).softmax(-1)
            _put(out, segment, p @ values)
            kept.append(p if keys.shape[1] <= KEPT else None)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.segments, ctx.form = segments, form
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, *kept = ctx.saved_tensors
        grad, form = grads[0], ctx.form
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for segment, p in zip(ctx.segments, kept, strict=True):
            queries, keys, values = _of(q, k, v, segment)
            bend = None
            if p is None or form.cap is not None:
                scores = _scores(queries, keys, segment, form)
                if form.cap is not None:  # masked scores are infinite, and p is 0 there
                    bend = (1 - (scores / form.cap).square_()).nan_to_num_(neginf=0.0)
                p = scores.softmax(-1)
            g = _grouped(grad, segment, len(keys))
            _add(grad_v, segment, p.mT @ g)
            slope = torch._softmax_backward_data(g @ values.mT, p, -1, p.dtype)
            if bend is not None:
                slope.mul_(bend)
            _put(grad_q, segment, slope @ keys)
            _add(grad_k, segment, slope.mT @ queries)
        return grad_q.mul_(form.scale), grad_k, grad_v, None, None


def flat_attention(q: Tensor, k: Tensor, v: Tensor, segments: tuple[Segment, ...], form: Form) -> Tensor:
    """Attention of a stream.

    Args:
        q: [H, N, E] queries of H heads.
        k: [G, N, E] keys, G heads of which each serves H / G heads of queries.
        v: [G, N, E] values.
        segments: What sees what.
        form: Scale, window and cap.

    Returns:
        [H, N, E].
    """
    out: Tensor = _FlatAttention.apply(q, k, v, segments, form)  # type: ignore[no-untyped-call]
    return out


def _of(q: Tensor, k: Tensor, v: Tensor, segment: Segment) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [G, H/G * m, E], keys and values [G, L, E] of a segment of m queries and L keys."""
    return _grouped(q, segment, len(k)), _seen(k, segment), _seen(v, segment)


def _grouped(x: Tensor, segment: Segment, groups: int) -> Tensor:
    part = x[:, segment.start : segment.end]
    return part.reshape(groups, -1, x.shape[-1])


def _seen(x: Tensor, segment: Segment) -> Tensor:
    own = x[:, segment.begin : segment.end]
    first, last = segment.prefix
    return own if first == last else torch.cat([x[:, first:last], own], dim=1)


def _scores(queries: Tensor, keys: Tensor, segment: Segment, form: Form) -> Tensor:
    """[G, H/G * m, L], minus infinity where a query would see what follows it or lies outside the window."""
    count, length = segment.end - segment.start, keys.shape[1]
    scores = queries @ keys.mT
    if form.cap is not None:
        scores.div_(form.cap).tanh_().mul_(form.cap)
    square = scores.view(len(keys), -1, count, length)
    square[..., length - count :].add_(_future(BLOCK, scores.dtype, scores.device)[:count, :count])
    if form.window is not None and length > form.window:
        before = torch.ones(count, length, dtype=torch.bool, device=scores.device)
        square.masked_fill_(before.tril_(length - count - form.window), float("-inf"))
    return scores


@lru_cache(maxsize=8)
def _future(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[size, size] minus infinity above the diagonal, 0 elsewhere: adding it is faster than filling in."""
    return torch.full((size, size), float("-inf"), dtype=dtype, device=device).triu_(1)


def _put(x: Tensor, segment: Segment, part: Tensor) -> None:
    count = segment.end - segment.start
    x[:, segment.start : segment.end] = part.view(len(x), count, -1)


def _add(x: Tensor, segment: Segment, part: Tensor) -> None:
    first, last = segment.prefix
    before = last - first
    if before:
        x[:, first:last] += part[:, :before]
    x[:, segment.begin : segment.end] += part[:, before:]
