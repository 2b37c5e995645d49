"""Losses on steps against cross-entropy over two classes, numpy, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from align.objectives.process import PROCESS_LOSSES, bce, mse
from align.objectives.reduce import merge

SCORES = torch.tensor([1.5, -0.5, 0.0, 3.0], dtype=torch.float64)
LABELS = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)


def test_one_score_is_the_difference_of_two_logits() -> None:
    first = torch.tensor([0.3, 2.0, -1.0, 0.7], dtype=torch.float64)
    two = torch.stack([first, first + SCORES], dim=1)
    want = F.cross_entropy(two, LABELS.long(), reduction="sum")
    torch.testing.assert_close(bce(SCORES, LABELS).total, want)
    assert merge([bce(SCORES, LABELS).metrics]) == {
        "loss": pytest.approx(want.item() / 4),
        "accuracy": (1 + 0 + 1 + 0) / 4,
    }


def test_labels_between_0_and_1_are_probabilities() -> None:
    p = 1 / (1 + np.exp(-SCORES.numpy()))
    labels = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    want = -(labels.numpy() * np.log(p) + (1 - labels.numpy()) * np.log(1 - p)).sum()
    assert bce(SCORES, labels).total.item() == pytest.approx(want, rel=1e-12)


def test_squares_of_any_numbers() -> None:
    labels = torch.tensor([2.0, -1.0, 0.0, 7.0], dtype=torch.float64)
    found = mse(SCORES, labels)
    assert found.total.item() == pytest.approx(0.25 + 0.25 + 0 + 16)
    assert merge([found.metrics])["error"] == pytest.approx((0.5 + 0.5 + 0 + 4) / 4)


@pytest.mark.parametrize("name", list(PROCESS_LOSSES))
def test_gradients(name: str) -> None:
    x = SCORES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: PROCESS_LOSSES.get(name)(s, LABELS).total, (x,))


def test_certain_and_wrong_is_finite() -> None:
    x = torch.tensor([1e4, -1e4], requires_grad=True)
    bce(x, torch.tensor([0.0, 1.0])).total.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, -1.0]
