"""The padded forward: sequences padded on the right to the longest, one call of the stock model.

The reference that every faster forward is tested against, and the path that every family can take.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from align.engine import virtual
from align.engine.batch import TokenBatch


def hidden_states(body: nn.Module, batch: TokenBatch) -> Tensor:
    """Last hidden states of the model without its head.

    Causal attention never looks right, so padding behind a sequence changes nothing in front of it: no mask
    is given, and the attention kernel keeps its fast causal path.

    Returns:
        [S * L, D]; sequence s, index i stands at s * L + i.
    """
    device = next(body.parameters()).device
    rows = [torch.cat([batch.ids[a:b], batch.ids[c:d]]) for a, b, c, d in batch.spans.tolist()]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    past = virtual.cache_of(body, batch.sequences)
    out: Tensor = body(input_ids=ids.to(device), past_key_values=past, use_cache=False).last_hidden_state
    return out.flatten(0, 1)


def index(batch: TokenBatch, sequence: Tensor, at: Tensor) -> Tensor:
    """Rows of `hidden_states` for (sequence, index within the sequence)."""
    return sequence * int(batch.lengths.max()) + at
