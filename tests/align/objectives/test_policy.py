"""PPO's clipped surrogate against a loop over tokens written from the paper."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.objectives.policy import clipped_ratio
from align.objectives.reduce import merge


def _surrogate(ratio: float, advantage: float, clip: float) -> float:
    """Eq. 7 of arXiv:1707.06347, to be maximised."""
    clipped = min(max(ratio, 1 - clip), 1 + clip)
    return min(ratio * advantage, clipped * advantage)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 1.0, -1.0, -1.0),
        (1.0, -1.0, 1.0, 1.0),
        (2.0, 1.0, -1.2, 0.0),  # already far up: clipped, nothing to gain
        (2.0, -1.0, 2.0, 2.0),  # up although bad: not clipped
        (0.5, 1.0, -0.5, -0.5),  # down although good: not clipped
        (0.5, -1.0, 0.8, 0.0),  # already far down: clipped
    ],
)
def test_each_case_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    logps = torch.tensor([[math.log(ratio)]], requires_grad=True)
    found = clipped_ratio(logps, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1).bool(), 0.2)
    found.total.backward()
    assert found.total.item() == pytest.approx(loss)
    assert logps.grad is not None
    # d ratio / d logp is the ratio itself.
    assert logps.grad.item() == pytest.approx(gradient, abs=1e-7)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), clip=st.sampled_from([0.05, 0.2, 0.5]))
def test_against_a_loop_over_tokens(seed: int, clip: float) -> None:
    g = torch.Generator().manual_seed(seed)
    logps, old, advantages, entropy = (
        torch.randn(3, 4, generator=g, dtype=torch.float64) * 0.4 for _ in range(4)
    )
    mask = torch.rand(3, 4, generator=g) < 0.6
    total = clipfrac = kl = ratios = entropies = 0.0
    for s, t in mask.nonzero().tolist():
        rho = math.exp(logps[s, t].item() - old[s, t].item())
        advantage = advantages[s, t].item()
        total -= _surrogate(rho, advantage, clip)
        clipfrac += rho * advantage > min(max(rho, 1 - clip), 1 + clip) * advantage
        kl += rho - 1 - math.log(rho)
        ratios += rho
        entropies += entropy[s, t].item()
    hole = ~mask
    found = clipped_ratio(
        *(x.masked_fill(hole, torch.nan) for x in (logps, old, advantages)),
        mask,
        clip,
        entropy.masked_fill(hole, torch.nan),
    )
    assert found.total.item() == pytest.approx(total, abs=1e-12)
    n = int(mask.sum())
    expected = {
        "loss/policy": total,
        "policy/clipfrac": clipfrac,
        "policy/approxkl": kl,
        "policy/ratio": ratios,
        "policy/entropy": entropies,
    }
    means = {name: value / n for name, value in expected.items()} if n else {}
    assert merge([found.metrics]) == pytest.approx({**means, "policy/ratio_cut": 0.0}, abs=1e-12)


def test_at_the_first_step_ratio_is_1_and_kl_0() -> None:
    logps = -torch.rand(2, 3)
    metrics = merge([clipped_ratio(logps, logps, torch.ones(2, 3), torch.ones(2, 3).bool(), 0.2).metrics])
    assert metrics["policy/ratio"] == 1.0
    assert metrics["policy/approxkl"] == 0.0
    assert metrics["policy/clipfrac"] == 0.0
    assert "policy/entropy" not in metrics


def test_an_overflowing_ratio_is_cut_counted_and_carries_no_gradient() -> None:
    logps = torch.tensor([[500.0, -500.0, 0.0]], requires_grad=True)
    advantages = torch.tensor([[-1.0, 1.0, 1.0]])
    found = clipped_ratio(logps, torch.zeros(1, 3), advantages, torch.ones(1, 3).bool(), 0.2)
    found.total.backward()
    assert found.total.item() == pytest.approx(math.exp(20) - math.exp(-20) - 1)
    assert logps.grad is not None
    assert logps.grad.tolist() == [[0.0, 0.0, -1.0]]
    metrics = merge([found.metrics])
    assert metrics["policy/ratio_cut"] == 2.0
    assert math.isfinite(metrics["policy/approxkl"])


def test_gradients_and_padding() -> None:
    g = torch.Generator().manual_seed(1)
    logps, old, advantages = (torch.randn(2, 3, generator=g, dtype=torch.float64) for _ in range(3))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    logps.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: clipped_ratio(x, old, advantages, mask, 0.2).total, (logps,))
    clipped_ratio(logps, old.masked_fill(~mask, torch.nan), advantages, mask, 0.2).total.backward()
    assert logps.grad is not None
    assert torch.isfinite(logps.grad).all()
    assert not logps.grad[~mask].any()


def test_no_real_tokens() -> None:
    x = torch.zeros(1, 2, requires_grad=True)
    found = clipped_ratio(x, x.detach(), torch.ones(1, 2), torch.zeros(1, 2).bool(), 0.2)
    found.total.backward()
    assert found.total.item() == 0.0
    assert merge([found.metrics]) == {"policy/ratio_cut": 0.0}
