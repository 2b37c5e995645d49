"""What must hold before compute is spent. Each check names what differs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.data.types import TokenRow
from align.engine.batch import pack
from align.errors import DataError, NumericsError
from align.models.reward_model import RewardModel

SAME = 1e-5
ROUNDING = 0.1  # of numbers computed in bfloat16, which has 8 bits: the sum of many roundings of .004


def rounding(model: PreTrainedModel, exact: float) -> float:
    """The tolerance `exact` where a model computes in float32, else what bfloat16 allows."""
    return exact if model.dtype == torch.float32 else ROUNDING


def last_label_is_eos(rows: Sequence[TokenRow], eos: int, where: str) -> None:
    """Every response ends in EOS, so that the model learns to stop and a reward is read where it was trained.

    Windows that a longer text goes on behind are let pass.

    Raises:
        DataError: A row that does not.
    """
    for row in rows:
        if row.ends and any(response.ids[-1] != eos for response in row.responses):
            raise DataError(f"{where}: row {row.id}", "its last token is not EOS", "check the chat template")


@torch.no_grad()
def reward_alone_equals_batched(reward: RewardModel, rows: Sequence[TokenRow]) -> None:
    """A reward does not depend on padding or on neighbours.

    Raises:
        NumericsError: Two scores of one answer differ by more than 1e-5 of their size.
    """
    batched = reward.scores(pack(rows))
    alone = torch.cat([reward.scores(pack([row])) for row in rows])
    what, tolerance = "its score alone and in a padded batch", rounding(reward.plain, SAME)
    same("reward model", what, batched, alone, tolerance)


def same(where: str, what: str, a: Tensor, b: Tensor, tolerance: float = SAME) -> None:
    """Two tensors that must agree.

    Raises:
        NumericsError: They differ by more than `tolerance` x max(1, size).
    """
    if not len(a):
        return
    gap = float(((a - b).abs() / b.abs().clamp_min(1.0)).max())
    if not gap <= tolerance:
        raise NumericsError(
            where, f"{what} differ by {gap:.2g}", "the run would measure the wrong thing; report this"
        )
