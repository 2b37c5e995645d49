"""The forward that stages call; which path serves it is decided when a model is opened (`engine.paths`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from align.engine import flat, padded, virtual
from align.engine.batch import TokenBatch


@dataclass(frozen=True)
class States:
    """Hidden states where they are needed.

    Attributes:
        scored: [C, D] states that predict the scored tokens.
        last: [S, D] states at each sequence's last token, where a reward is read.
    """

    scored: Tensor
    last: Tensor


def states(body: nn.Module, batch: TokenBatch) -> States:
    """Run the model without its head over a batch.

    Args:
        body: A decoder whose output has `last_hidden_state`.
        batch: The batch.
    """
    batch = virtual.prepended(body, batch)
    path = flat if flat.is_prepared(body) else padded
    found = path.hidden_states(body, batch)
    scored = path.index(batch, batch.scored_in, batch.scored_at)
    last = path.index(batch, torch.arange(batch.sequences), batch.lengths - 1)
    return States(scored=found[scored.to(found.device)], last=found[last.to(found.device)])
