"""KTO and BCO on single answers, against plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from align.objectives.reduce import Loss, merge
from align.objectives.unpaired import bco, kto

POLICY, REF = [-2.0, -5.0, -1.0, -4.0], [-3.0, -4.0, -1.5, -2.0]
GOOD = [True, False, False, True]
RATIOS = [1.0, -1.0, 0.5, -2.0]
BETA = 0.4


def sig(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def rows(*lists: list[float]) -> list[Tensor]:
    return [torch.tensor(values, dtype=torch.float64) for values in lists]


def test_kto() -> None:
    found = kto(
        *rows(POLICY, REF), torch.tensor(GOOD), 0.3, BETA, desirable_weight=1.5, undesirable_weight=0.5
    )
    expected = [
        1.5 * (1 - sig(BETA * (r - 0.3))) if good else 0.5 * (1 - sig(BETA * (0.3 - r)))
        for r, good in zip(RATIOS, GOOD, strict=True)
    ]
    assert found.total.item() == pytest.approx(sum(expected))
    assert merge([found.metrics])["loss"] == pytest.approx(sum(expected) / 4)


def test_kto_weighs_alike_by_default() -> None:
    found = kto(*rows(POLICY, REF), torch.tensor(GOOD), 0.0, BETA).total.item()
    signs = [r if good else -r for r, good in zip(RATIOS, GOOD, strict=True)]
    assert found == pytest.approx(sum(1 - sig(BETA * r) for r in signs))


def test_bco() -> None:
    found = bco(*rows(POLICY, REF), torch.tensor(GOOD), -0.2, BETA)
    expected = [
        -math.log(sig(BETA * r + 0.2) if good else 1 - sig(BETA * r + 0.2))
        for r, good in zip(RATIOS, GOOD, strict=True)
    ]
    assert found.total.item() == pytest.approx(sum(expected))


def test_weights_of_bco() -> None:
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    found = bco(*rows(POLICY, REF), torch.tensor(GOOD), -0.2, BETA, **weights)
    expected = [
        -1.5 * math.log(sig(BETA * r + 0.2)) if good else -0.5 * math.log(1 - sig(BETA * r + 0.2))
        for r, good in zip(RATIOS, GOOD, strict=True)
    ]
    assert found.total.item() == pytest.approx(sum(expected))


@pytest.mark.parametrize("loss", [kto, bco])
def test_metrics_of_good_and_bad_answers(loss: Callable[..., Loss]) -> None:
    metrics = merge([loss(*rows(POLICY, REF), torch.tensor(GOOD), 0.1, BETA).metrics])
    del metrics["loss"]
    assert metrics == pytest.approx(
        {
            "rewards/chosen": BETA * (1.0 - 2.0) / 2,
            "rewards/rejected": BETA * (-1.0 + 0.5) / 2,
            "logps/chosen": -3.0,
            "logps/rejected": -3.0,
        }
    )


@pytest.mark.parametrize("loss", [kto, bco])
def test_gradients_and_the_point_of_reference_is_a_constant(loss: Callable[..., Loss]) -> None:
    policy, ref = rows(POLICY, REF)
    policy.requires_grad_()
    good = torch.tensor(GOOD)
    point = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: loss(x, ref, good, 0.3, BETA).total, (policy,))
    loss(policy, ref, good, point, BETA).total.backward()
    assert point.grad is None
    assert policy.grad is not None
    assert ((policy.grad < 0) == good).all()


@pytest.mark.parametrize("loss", [kto, bco])
def test_extreme_values_and_one_sort_only(loss: Callable[..., Loss]) -> None:
    policy = torch.tensor([-1e4, 0.0], requires_grad=True)
    found = loss(policy, torch.tensor([0.0, -1e4]), torch.tensor([True, True]), 0.0, 1.0)
    found.total.backward()
    assert torch.isfinite(found.total)
    assert policy.grad is not None
    assert torch.isfinite(policy.grad).all()
    assert "rewards/rejected" not in merge([found.metrics])
