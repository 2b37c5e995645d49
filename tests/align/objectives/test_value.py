"""The critic's loss against a loop over tokens, and explained variance against scikit-learn."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import explained_variance_score

from align.objectives.reduce import merge
from align.objectives.value import clipped_value, explained_variance


@pytest.mark.parametrize(
    ("value", "target", "loss", "gradient"),
    [
        (0.1, 1.0, 0.405, -0.9),  # within the clip: 0.5 * 0.9^2
        (1.0, 1.1, 0.405, 0.0),  # a long step towards the target counts as one to 0.2
        (-1.0, 1.0, 2.0, -2.0),  # a long step away counts in full
        (1.0, -1.0, 2.0, 2.0),
        (-1.0, -1.1, 0.405, 0.0),
    ],
)
def test_each_case_by_hand(value: float, target: float, loss: float, gradient: float) -> None:
    values = torch.tensor([[value]], requires_grad=True)
    found = clipped_value(values, torch.zeros(1, 1), torch.tensor([[target]]), torch.ones(1, 1).bool(), 0.2)
    found.total.backward()
    assert found.total.item() == pytest.approx(loss)
    assert values.grad is not None
    assert values.grad.item() == pytest.approx(gradient, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), clip=st.sampled_from([0.05, 0.2, 1.0]))
def test_against_a_loop_over_tokens(seed: int, clip: float) -> None:
    g = torch.Generator().manual_seed(seed)
    values, old, returns = (torch.randn(3, 4, generator=g, dtype=torch.float64) for _ in range(3))
    mask = torch.rand(3, 4, generator=g) < 0.6
    total = clipped = error = 0.0
    for s, t in mask.nonzero().tolist():
        v, v_old, target = values[s, t].item(), old[s, t].item(), returns[s, t].item()
        near = v if abs(v - v_old) <= clip else v_old + (clip if v > v_old else -clip)
        total += 0.5 * max((v - target) ** 2, (near - target) ** 2)
        clipped += (near - target) ** 2 > (v - target) ** 2
        error += (v - target) ** 2
    found = clipped_value(*(x.masked_fill(~mask, torch.nan) for x in (values, old, returns)), mask, clip)
    assert found.total.item() == pytest.approx(total, abs=1e-12)
    n = int(mask.sum())
    sums = {"loss/value": total, "val/clipfrac": clipped, "val/error": error}
    assert merge([found.metrics]) == pytest.approx({k: v / n for k, v in sums.items()} if n else {})


def test_gradients_and_padding() -> None:
    g = torch.Generator().manual_seed(1)
    values, old, returns = (torch.randn(2, 3, generator=g, dtype=torch.float64) for _ in range(3))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: clipped_value(x, old, returns, mask, 0.3).total, (values,))
    clipped_value(values, old, returns.masked_fill(~mask, torch.nan), mask, 0.3).total.backward()
    assert values.grad is not None
    assert not values.grad[~mask].any()


def test_explained_variance_against_scikit_learn() -> None:
    g = torch.Generator().manual_seed(2)
    values, returns = torch.randn(4, 5, generator=g), torch.randn(4, 5, generator=g)
    returns = returns + values
    mask = torch.rand(4, 5, generator=g) < 0.7
    expected = explained_variance_score(returns[mask].numpy(), values[mask].numpy())
    assert explained_variance(values.masked_fill(~mask, torch.nan), returns, mask) == pytest.approx(expected)


@pytest.mark.parametrize("n", [0, 1, 6])
def test_explained_variance_where_nothing_varies(n: int) -> None:
    mask = torch.arange(6)[None, :] < n
    assert explained_variance(torch.randn(1, 6), torch.full((1, 6), 0.1), mask) == 0.0
