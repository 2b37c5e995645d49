"""The checks before compute is spent: each refuses what it is there for, and says what."""

from __future__ import annotations

import pytest
import torch

from align.data.types import Response, TokenRow
from align.errors import DataError, NumericsError
from align.training.checks import last_label_is_eos, same

EOS = 2


def row(name: str, *answers: tuple[int, ...]) -> TokenRow:
    return TokenRow(name, (5,), tuple(Response(ids, (1.0,) * len(ids)) for ids in answers))


def test_every_answer_has_to_end_in_eos() -> None:
    good, bad = row("good", (4, EOS), (EOS,)), row("bad", (4, EOS), (EOS, 4))
    last_label_is_eos([good], EOS, "sft")
    with pytest.raises(DataError, match="sft: row bad: its last token is not EOS"):
        last_label_is_eos([good, bad], EOS, "sft")


def test_numbers_agree_in_proportion_to_their_size_and_below_one_absolutely() -> None:
    same("x", "a and b", torch.tensor([1000.005, 0.00001]), torch.tensor([1000.0, 0.0]), 2e-5)
    for a, b in ((1000.05, 1000.0), (0.0001, 0.0), (-1.0001, -1.0)):
        with pytest.raises(NumericsError, match="a and b differ by"):
            same("x", "a and b", torch.tensor([7.0, a]), torch.tensor([7.0, b]), 2e-5)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_agrees_with_nothing(wrong: float) -> None:
    with pytest.raises(NumericsError):
        same("x", "a and b", torch.tensor([1.0, wrong]), torch.tensor([1.0, wrong]))
