"""Choosing the next token. The draw of a row depends on (seed, row id, sample, position) only."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from align.config.base import SamplingOptions


def uniforms(seed: int, row: str, sample: int, count: int) -> Tensor:
    """[count] numbers in [0, 1) that belong to one sample of one row, whatever it is batched with."""
    digest = hashlib.sha256(f"{seed}\x00{row}\x00{sample}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.rand(count, generator=generator)


def choose(
    logits: Tensor, u: Tensor, sampling: SamplingOptions, banned: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Next token of each row by inversion of the cumulative distribution.

    Args:
        logits: [S, V] in float32; overwritten.
        u: [S] in [0, 1).
        sampling: Temperature (0 takes the most likely token, with its log-prob at temperature 1), then top-k,
            top-p and min-p, in the order of transformers.
        banned: Rows, and tokens that they may not take; at least one other is left.

    Returns:
        tokens [S], log-probs [S] under the whole distribution at the temperature.
    """
    greedy = sampling.temperature == 0
    z = logits if greedy or sampling.temperature == 1 else logits.div_(sampling.temperature)
    left_out = None
    if banned is not None:
        rows, tokens = banned
        place = rows[:, None], tokens[None]
        left_out = z[place].logsumexp(-1)
        z[place] = float("-inf")
    top, best = z.max(-1, keepdim=True)
    p = z.sub_(top).exp_()
    norm = p.sum(-1).log_()
    chosen = best[:, 0] if greedy else _draw(_filtered(p, sampling), u)
    if banned is not None and left_out is not None:
        rows = banned[0]
        norm[rows] = torch.logaddexp(norm[rows], left_out - top[rows, 0])
    return chosen, p.gather(-1, chosen[:, None])[:, 0].log_() - norm


def _draw(p: Tensor, u: Tensor) -> Tensor:
    """[S] where the cumulative sum of p [S, V], which adds up to anything, passes the part u of its end."""
    cdf = p.cumsum(-1)
    end = cdf[:, -1]
    at = torch.minimum(u * end, end.nextafter(torch.zeros_like(end)))  # the product may round up to the end
    return torch.searchsorted(cdf, at[:, None], right=True)[:, 0]


def _filtered(p: Tensor, sampling: SamplingOptions) -> Tensor:
    """[S, V] p, whose largest is 1 in each row, with zeros where a token is out of the running."""
    if sampling.top_k is not None and sampling.top_k < p.shape[-1]:
        p = p * (p >= p.topk(sampling.top_k, -1).values[:, -1:])
    if sampling.top_p < 1:
        ordered, order = p.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        kept = before < sampling.top_p * ordered.sum(-1, keepdim=True)
        p = p * torch.zeros_like(kept).scatter_(-1, order, kept)
    if sampling.min_p > 0:
        p = p * (p >= sampling.min_p)
    return p
