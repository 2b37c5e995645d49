"""Noise on the embeddings of a batch (NEFTune), the same for a row whatever it is batched with."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from align.engine import flat, virtual
from align.engine.batch import TokenBatch


@contextmanager
def neftune(model: Any, batch: TokenBatch, alpha: float, seed: int, step: int) -> Iterator[None]:
    """Inside, forwards of this batch get uniform noise on their embeddings.

    Equation: e + alpha / sqrt(L D) u, u ~ Uniform(-1, 1), L tokens of the sequence, D hidden size
    (arXiv:2310.05914). A row's draw depends on (seed, step, row id) only, so not on the cut into
    micro-batches. Departure: L counts real tokens, not those of a padded batch.

    Args:
        model: A causal model of transformers.
        batch: Rows of one response each, in one piece of the stream.
        alpha: Scale; 0 changes nothing.
        seed: Of the stage.
        step: Of training.
    """
    if alpha == 0:
        yield
        return
    embeddings: nn.Module = model.get_input_embeddings()
    learned = len(virtual.ids_of(model.base_model))  # embeddings before each row, which get no noise
    is_stream = flat.is_prepared(model.base_model)

    def add(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
        width = embedded.shape[-1]
        parts = [
            alpha / math.sqrt(length * width) * _uniform(f"{seed}\x00{step}\x00{name}", length, width)
            for name, length in zip(batch.names, batch.lengths.tolist(), strict=True)
        ]
        parts = [nn.functional.pad(part, (0, 0, learned, 0)) for part in parts]
        noise = torch.cat(parts)[None] if is_stream else nn.utils.rnn.pad_sequence(parts, batch_first=True)
        return embedded + noise.to(embedded)

    handle = embeddings.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _uniform(key: str, length: int, width: int) -> Tensor:
    """[L, D] in [-1, 1), fixed by the key."""
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return 2 * torch.rand(length, width, generator=generator) - 1
