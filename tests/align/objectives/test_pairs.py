"""What the losses on pairs are made from: log-ratios, divergences, weights of tokens."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from align.objectives.pairs import STEEPEST, Knobs, Pairs, length_desensitised, shaped


def one(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def pair(*values: float) -> Pairs:
    return Pairs(*(one(value) for value in values))


def test_ratios_means_and_margins_by_hand() -> None:
    it = pair(-6.0, -20.0, 3.0, 5.0, -7.0, -16.0)
    assert it.chosen_ratio.item() == 1.0
    assert it.rejected_ratio.item() == -4.0
    assert (it.chosen_mean.item(), it.rejected_mean.item()) == (-2.0, -4.0)
    assert it.ref_margin.item() == 9.0
    assert it.margin(Knobs(0.1)).item() == 5.0
    assert it.mean_margin(Knobs(0.1)).item() == pytest.approx(1 / 3 + 4 / 5)


@pytest.mark.parametrize("name", ["chosen_ratio", "rejected_ratio", "ref_margin"])
def test_a_missing_reference_is_not_taken_for_0(name: str) -> None:
    with pytest.raises(ValueError, match="reference"):
        getattr(pair(-6.0, -20.0, 3.0, 5.0), name)


DERIVATIVES: dict[str, Callable[[float], float]] = {  # f'(u) with f'(1) = 0
    "reverse_kl": lambda u: math.log(u),
    "forward_kl": lambda u: 1 - 1 / u,
    "js": lambda u: math.log(2 * u / (1 + u)),
    "alpha": lambda u: (1 - u**-0.3) / 0.3,
}


@pytest.mark.parametrize("name", list(DERIVATIVES))
@pytest.mark.parametrize("u", [1e-3, 0.5, 1.0, 2.0, 50.0])
def test_divergences(name: str, u: float) -> None:
    found = shaped(one(math.log(u)), Knobs(0.1, divergence=name, alpha=0.3))  # type: ignore[arg-type]
    assert found.item() == pytest.approx(DERIVATIVES[name](u), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("x", [-3.0, 0.4, 2.0])
def test_alpha_runs_from_the_reverse_kl_to_the_forward_kl(x: float) -> None:
    near_0 = shaped(one(x), Knobs(0.1, divergence="alpha", alpha=1e-6))
    near_1 = shaped(one(x), Knobs(0.1, divergence="alpha", alpha=1 - 1e-6))
    assert near_0.item() == pytest.approx(x, rel=1e-4)
    assert near_1.item() == pytest.approx(1 - math.exp(-x), rel=1e-4)


def test_alpha_without_its_number() -> None:
    with pytest.raises(ValueError, match="alpha"):
        shaped(one(1.0), Knobs(0.1, divergence="alpha"))


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_the_exponential_goes_on_as_a_line(power: float) -> None:
    knobs = Knobs(0.1, divergence="alpha", alpha=power) if power < 1 else Knobs(0.1, divergence="forward_kl")
    edge = -STEEPEST / power
    x = torch.tensor([edge + 1e-9, edge - 1e-9, edge - 10.0], dtype=torch.float64, requires_grad=True)
    y = shaped(x, knobs)
    (slopes,) = torch.autograd.grad(y.sum(), x)
    steepest = math.exp(STEEPEST)
    assert slopes.tolist() == pytest.approx([steepest] * 3, rel=1e-6)
    assert y[0].item() == pytest.approx(y[1].item(), rel=1e-6)
    assert (y[1] - y[2]).item() == pytest.approx(10 * steepest, rel=1e-6)


@pytest.mark.parametrize("name", list(DERIVATIVES))
def test_divergences_never_lose_their_slope_or_overflow(name: str) -> None:
    x = torch.tensor([-1e4, -30.0, 0.0, 5.0], requires_grad=True)
    y = shaped(x, Knobs(0.1, divergence=name, alpha=0.5))  # type: ignore[arg-type]
    (slopes,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(y).all()
    assert torch.isfinite(slopes).all()
    assert (slopes > 0).all()


def test_length_desensitised_by_hand() -> None:
    weights = length_desensitised(torch.tensor([[2, 4], [3, 3], [2, 1]]), 0.25)
    first, second, third = [1.0] * 2 + [1.0, 1.0, 0.25, 0.25], [1.0] * 6, [1.0, 0.25, 1.0]
    assert weights.tolist() == [*first, *second, *third]
    assert length_desensitised(torch.tensor([[2, 4]]), 1.0).tolist() == [1.0] * 6
    assert length_desensitised(torch.zeros(0, 2, dtype=torch.long), 0.5).tolist() == []


def test_the_exponential_is_exact_up_to_e_to_the_20_and_no_further() -> None:
    knobs = Knobs(0.1, divergence="forward_kl")
    exact, line = (shaped(one(x), knobs).item() for x in (-19.5, -22.0))
    assert exact == pytest.approx(1 - math.exp(19.5), rel=1e-12)
    assert line == pytest.approx(1 - math.exp(20) * (1 + 2), rel=1e-12)
