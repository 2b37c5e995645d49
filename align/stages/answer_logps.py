"""Log-probs of whole answers under a policy and its reference: what `dpo` and `kto` share.

Shape legend: S sequences, C scored positions, K responses per prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from align.data.types import TokenRow
from align.engine.batch import Budget, TokenBatch, by_row, pack
from align.objectives.reduce import Loss
from align.training import checks

WHOLE = 10**9  # tokens: a budget that cuts nothing
Read = Callable[[TokenBatch], Tensor]


def summed(logps: Tensor, batch: TokenBatch) -> Tensor:
    """[S] log-prob of each whole answer, of [C] those of its tokens."""
    return logps.new_zeros(batch.sequences).index_add(0, batch.scored_in, logps)


def by_id(rows: Sequence[TokenRow], budget: Budget, read: Read) -> dict[str, Tensor]:
    """Row id -> [K] numbers of its answers, as `engine.batch.by_row` reads them; each row has its own id."""
    return dict(zip((row.id for row in rows), by_row(rows, budget, read), strict=True))


def of(known: Mapping[str, Tensor], rows: Sequence[TokenRow]) -> Tensor:
    """[S] numbers of the rows' answers, row by row."""
    return torch.cat([known[row.id] for row in rows])


@torch.no_grad()
def loss_is_known_at_step_0(
    stage: str,
    rows: Sequence[TokenRow],
    read: Read,
    loss: Callable[[Tensor, Tensor, TokenBatch, Sequence[TokenRow]], Loss],
    reference: Mapping[str, Tensor],
    tolerance: float,
) -> None:
    """Policy and reference are one at step 0: the loss is that of equal log-probs, ln 2 for sigmoid DPO.

    Args:
        stage: Its name, for the message.
        rows: A few rows.
        read: [S] log-probs of a batch's answers under the policy.
        loss: (policy's, reference's log-probs, batch, its rows) -> sum over the rows.
        reference: Row id -> [K] log-probs under the reference.
        tolerance: Of the loss.

    Raises:
        NumericsError: It is not.
    """
    for row in rows:  # one by one: summed up, a desirable and an undesirable answer could hide an error
        batch = pack([row])
        logps, ref = read(batch), of(reference, [row])
        equal = torch.zeros_like(logps)
        found, want = (loss(x, y, batch, [row]).total.reshape(1) for x, y in ((logps, ref), (equal, equal)))
        what = "the loss and that of policy = reference"
        checks.same(f"{stage}, step 0", what, found, want, tolerance)
