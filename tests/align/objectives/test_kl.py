"""Estimators of the divergence: by hand, and on average equal to the exact one."""

from __future__ import annotations

import math

import pytest
import torch

from align.objectives.kl import k1, k3


def test_by_hand() -> None:
    # p gives the token 1/2, q gives it 1/4.
    p, q = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert k1(p, q).item() == pytest.approx(math.log(2))
    assert k3(p, q).item() == pytest.approx(0.5 - 1 + math.log(2))


def test_k1_and_k3_are_unbiased() -> None:
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    q = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    exact = sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True))
    for estimator in (k1, k3):
        assert float((p * estimator(p.log(), q.log())).sum()) == pytest.approx(exact)


def test_k1_takes_signs_and_k3_does_not() -> None:
    p, q = torch.tensor([-2.0]), torch.tensor([-1.0])
    assert k1(p, q).item() == -1.0
    assert k3(p, q).item() > 0


@pytest.mark.parametrize("gap", [-1000.0, 1000.0])
def test_k3_is_finite_for_any_gap(gap: float) -> None:
    assert torch.isfinite(k3(torch.tensor([gap]), torch.zeros(1))).all()
