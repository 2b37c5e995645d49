"""Rankings of different lengths as one rectangle: what losses on rankings read.

Shape legend: B rankings, K answers of the longest, S answers of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from align.data.types import TokenRow


@dataclass(frozen=True)
class Rectangle:
    """The shape of a micro-batch of rankings.

    Attributes:
        sizes: Number of answers of each ranking.
        tiers: [B, K] integers, 0 is best; 0 where there is no answer.
        mask: [B, K] true on real answers.
    """

    sizes: list[int]
    tiers: Tensor
    mask: Tensor

    def fill(self, values: Tensor) -> Tensor:
        """[B, K] of [S] values, ranking by ranking; 0 where there is no answer."""
        return pad_sequence(list(values.split(self.sizes)), batch_first=True)


def rectangle(rows: Sequence[TokenRow]) -> Rectangle:
    """The shape of these rankings."""
    sizes = [len(row.responses) for row in rows]
    mask = torch.arange(max(sizes))[None] < torch.tensor(sizes)[:, None]
    return Rectangle(sizes, padded([row.tiers for row in rows], torch.long), mask)


def padded(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    """[B, K] numbers, 0 behind the end of a row."""
    return pad_sequence([torch.tensor(row, dtype=dtype) for row in rows], batch_first=True)
