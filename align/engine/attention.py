"""Causal attention over a flat stream of tries: each sequence sees its prompt and itself, and nothing else.

    S = scale Q K^T  (or cap tanh(S / cap)),   P = softmax(S + mask),   O = P V
    dV = P^T dO,   dS = P * (dO V^T - rowsum(dO * O)),   dQ = scale dS K,   dK = scale dS^T Q

(arXiv:2205.14135, Eq. 3 and Appendix B). Each segment is a handful of dense products of the sizes that chats
have, which on CPUs is faster than the fused kernel, whose backward is slow. P is not kept: the backward pass
computes it again from the row norms. Grouped queries (arXiv:2305.13245) are rows of one product.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

BLOCK = 128  # queries of one product: more compute what is masked, fewer leave the cores idle


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

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.depths.max()) + 1


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
        out = torch.empty_like(q)
        norms = []
        for segment in segments:
            queries, keys, values = _of(q, k, v, segment)
            p = _scores(queries, keys, segment, form)
            top = p.amax(-1, keepdim=True)
            total = p.sub_(top).exp_().sum(-1, keepdim=True)
            norms.append(total.log() + top)
            _put(out, segment, (p @ values).div_(total))
        ctx.save_for_backward(q, k, v, out, *norms)
        ctx.segments, ctx.form = segments, form
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, out, *norms = ctx.saved_tensors
        grad, form = grads[0], ctx.form
        rows = (grad * out).sum(-1, keepdim=True)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for segment, norm in zip(ctx.segments, norms, strict=True):
            queries, keys, values = _of(q, k, v, segment)
            scores = _scores(queries, keys, segment, form)
            bend = None if form.cap is None else 1 - (scores / form.cap).square_()
            p = scores.sub_(norm).exp_()
            g = _grouped(grad, segment, len(keys))
            _add(grad_v, segment, p.mT @ g)
            slope = (g @ values.mT).sub_(_grouped(rows, segment, len(keys))).mul_(p)
            if bend is not None:
                slope.mul_(bend.nan_to_num_(neginf=0.0))  # masked scores are infinite, and p is 0 there
            _put(grad_q, segment, (slope @ keys).mul_(form.scale))
            _add(grad_k, segment, (slope.mT @ queries).mul_(form.scale))
        return grad_q, grad_k, grad_v, None, None


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
    scores = (queries * form.scale) @ keys.mT
    if form.cap is not None:
        scores.div_(form.cap).tanh_().mul_(form.cap)
    square = scores.view(len(keys), -1, count, length)
    square[..., length - count :].masked_fill_(_triangle(BLOCK, scores.device)[:count, :count], float("-inf"))
    if form.window is not None and length > form.window:
        before = torch.ones(count, length, dtype=torch.bool, device=scores.device)
        square.masked_fill_(before.tril_(length - count - form.window), float("-inf"))
    return scores


@lru_cache(maxsize=8)
def _triangle(size: int, device: torch.device) -> Tensor:
    """[size, size] True above the diagonal."""
    return torch.ones(size, size, dtype=torch.bool, device=device).triu_(1)


def _put(x: Tensor, segment: Segment, part: Tensor) -> None:
    count = segment.end - segment.start
    x[:, segment.start : segment.end] = part.view(len(x), count, -1)


def _add(x: Tensor, segment: Segment, part: Tensor) -> None:
    first, last = segment.prefix
    before = last - first
    if before:
        x[:, first:last] += part[:, :before]
    x[:, segment.begin : segment.end] += part[:, before:]
