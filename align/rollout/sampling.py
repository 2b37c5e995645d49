"""Choosing the next token. The draw of a row depends on (seed, row id, sample, position) only."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def uniforms(seed: int, row: str, sample: int, count: int) -> Tensor:
    """[count] numbers in [0, 1) that belong to one sample of one row, whatever it is batched with."""
    digest = hashlib.sha256(f"{seed}\x00{row}\x00{sample}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.rand(count, generator=generator)


def choose(logits: Tensor, u: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Next token of each row by inversion of the cumulative distribution.

    Args:
        logits: [S, V].
        u: [S] in [0, 1).
        temperature: Divides the logits; 0 takes the most likely token (log-prob at temperature 1).

    Returns:
        tokens [S], log-probs [S] at that temperature.
    """
    if temperature == 0:
        logps = logits.float().log_softmax(-1)
        tokens = logits.argmax(-1)
    else:
        logps = (logits.float() / temperature).log_softmax(-1)
        cdf = logps.exp().cumsum(-1)
        # The sum of rounded probabilities is not exactly 1: scale the draw to it, so that the last token is
        # no sink.
        tokens = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True)[:, 0].clamp_(
            max=logits.shape[-1] - 1
        )
    return tokens, logps.gather(-1, tokens[:, None])[:, 0]
