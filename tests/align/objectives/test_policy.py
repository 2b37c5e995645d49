"""Policy-gradient losses against loops over tokens written from the papers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from align.objectives.policy import (
    clipped_ratio,
    clipped_weight,
    entropy_bonus,
    kl_penalty,
    log_ratio,
    token_count,
    token_weights,
)
from align.objectives.reduce import merge


def _surrogate(ratio: float, advantage: float, low: float, high: float, dual: float | None) -> float:
    """Eq. 7 of arXiv:1707.06347 with two bounds, and Eq. 5 of arXiv:1912.09729; to be maximised."""
    clipped = min(max(ratio, 1 - low), 1 + high)
    found = min(ratio * advantage, clipped * advantage)
    return max(found, dual * advantage) if dual is not None and advantage < 0 else found


@pytest.mark.parametrize(
    ("ratio", "advantage", "options", "loss", "gradient"),
    [
        (1.0, 1.0, {}, -1.0, -1.0),
        (1.0, -1.0, {}, 1.0, 1.0),
        (2.0, 1.0, {}, -1.2, 0.0),  # already far up: clipped, nothing to gain
        (2.0, -1.0, {}, 2.0, 2.0),  # up although bad: not clipped
        (0.5, 1.0, {}, -0.5, -0.5),  # down although good: not clipped
        (0.5, -1.0, {}, 0.8, 0.0),  # already far down: clipped
        (1.25, 1.0, {"clip_high": 0.28}, -1.25, -1.25),  # may rise further than it may fall
        (1.5, 1.0, {"clip_high": 0.28}, -1.28, 0.0),
        (0.75, -1.0, {"clip_high": 0.28}, 0.8, 0.0),
        (9.0, -1.0, {"dual_clip": 3.0}, 3.0, 0.0),  # no more than three times as bad
        (2.0, -1.0, {"dual_clip": 3.0}, 2.0, 2.0),
        (9.0, 1.0, {"dual_clip": 3.0}, -1.2, 0.0),  # of good answers it says nothing
    ],
)
def test_each_case_by_hand(
    ratio: float, advantage: float, options: dict[str, float], loss: float, gradient: float
) -> None:
    ratios = torch.tensor([math.log(ratio)], requires_grad=True)
    found = clipped_ratio(ratios, torch.tensor([advantage]), torch.ones(1), 0.2, **options)
    found.total.backward()
    assert found.total.item() == pytest.approx(loss)
    assert ratios.grad is not None
    # d ratio / d logp is the ratio itself.
    assert ratios.grad.item() == pytest.approx(gradient, abs=1e-6)


def _numbers(seed: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    some = tuple(torch.randn(12, generator=g, dtype=torch.float64) * 0.6 for _ in range(3))
    weights = torch.rand(12, generator=g, dtype=torch.float64) * (torch.rand(12, generator=g) < 0.6)
    return *some, weights


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    low=st.sampled_from([0.05, 0.2, 0.5]),
    high=st.sampled_from([0.2, 0.4]),
    dual=st.sampled_from([None, 1.2]),
)
def test_clipped_ratio_against_a_loop_over_tokens(
    seed: int, low: float, high: float, dual: float | None
) -> None:
    logps, old, advantages, weights = _numbers(seed)
    total = clipfrac = kl = ratios = 0.0
    for t in weights.nonzero()[:, 0].tolist():
        rho, advantage = math.exp(logps[t].item() - old[t].item()), advantages[t].item()
        total -= weights[t].item() * _surrogate(rho, advantage, low, high, dual)
        clipfrac += rho * advantage > min(max(rho, 1 - low), 1 + high) * advantage
        kl += rho - 1 - math.log(rho)
        ratios += rho
    hole = weights == 0
    apart, masked = (
        log_ratio(logps, old).masked_fill(hole, torch.nan),
        advantages.masked_fill(hole, torch.nan),
    )
    found = clipped_ratio(apart, masked, weights, low, high, dual)
    assert found.total.item() == pytest.approx(total, abs=1e-12)
    n, weight = int((~hole).sum()), float(weights.sum())
    want = (
        {"policy/clipfrac": clipfrac / n, "policy/approxkl": kl / n, "policy/ratio": ratios / n} if n else {}
    )
    want |= {"loss/policy": total / weight} if n else {}
    assert merge([found.metrics]) == pytest.approx({**want, "policy/ratio_cut": 0.0}, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_clipped_weight_against_a_loop_over_tokens(seed: int) -> None:
    logps, old, advantages, weights = _numbers(seed)
    logps.requires_grad_()
    total, slopes, cut = 0.0, [0.0] * 12, 0
    for t in weights.nonzero()[:, 0].tolist():
        rho = math.exp(logps[t].item() - old[t].item())
        factor = weights[t].item() * min(rho, 1.4) * advantages[t].item()
        total -= factor * logps[t].item()
        slopes[t] = -factor  # every token keeps a gradient, and none comes through the ratio
        cut += rho > 1.4
    found = clipped_weight(log_ratio(logps, old), logps, advantages, weights, 0.4)
    found.total.backward()
    assert logps.grad is not None
    assert found.total.item() == pytest.approx(total, abs=1e-12)
    assert logps.grad.tolist() == pytest.approx(slopes, abs=1e-12)
    n = int((weights > 0).sum())
    assert not n or merge([found.metrics])["policy/clipfrac"] == pytest.approx(cut / n)


def test_ratios_of_whole_answers() -> None:
    now = torch.tensor([0.5, 1.5, 1.0, 0.0], requires_grad=True)
    owners = torch.tensor([1, 1, 0, 1])
    mean = log_ratio(now, torch.full((4,), 0.5), owners, "geometric_mean")
    assert mean.tolist() == pytest.approx([0.5 / 3, 0.5 / 3, 0.5, 0.5 / 3])
    product = log_ratio(now, torch.full((4,), 0.5), owners, "product")
    assert product.tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5])
    (mean * torch.tensor([1.0, 0.0, 0.0, 0.0])).sum().backward()
    assert now.grad is not None
    assert now.grad.tolist() == pytest.approx([1 / 3, 1 / 3, 0.0, 1 / 3])
    assert log_ratio(now, torch.zeros(4), owners).tolist() == now.tolist()


@pytest.mark.parametrize(
    ("by", "mean"), [("token", 11 / 5), ("sequence", (2 + 7 / 3) / 2), ("constant", 11 / 20)]
)
def test_the_three_means(by: Any, mean: float) -> None:
    """Answers of 2 and 3 tokens that cost 2, 2 and 1, 2, 4, of at most 10 tokens."""
    lengths, costs = torch.tensor([2, 3]), torch.tensor([2.0, 2.0, 1.0, 2.0, 4.0])
    each = token_weights(lengths, by, 10).repeat_interleave(lengths)
    assert float((each * costs).sum() / token_count(lengths, by)) == pytest.approx(mean)


def test_kl_as_a_loss_pulls_back_to_the_reference() -> None:
    ref, weights = torch.tensor([-1.0, -1.0, -3.0]), torch.tensor([1.0, 0.5, 0.0])
    for estimator, total, slopes in (
        ("k2", 0.5 * 4 + 0.5 * 0.5, [-2.0, 0.5, 0.0]),
        (
            "k3",
            math.exp(2) - 1 - 2 + 0.5 * (math.exp(-1) - 1 + 1),
            [1 - math.exp(2), 0.5 * (1 - math.exp(-1)), 0.0],
        ),
    ):
        logps = torch.tensor([-3.0, 0.0, torch.nan], requires_grad=True)
        found = kl_penalty(logps, ref, weights, estimator)  # type: ignore[arg-type]
        found.total.backward()
        assert logps.grad is not None
        assert found.total.item() == pytest.approx(total)
        assert logps.grad.tolist() == pytest.approx(slopes)


def test_entropy_is_summed_by_weight_and_told_as_a_mean() -> None:
    found = entropy_bonus(torch.tensor([1.0, 3.0, torch.nan]), torch.tensor([1.0, 0.5, 0.0]))
    assert (found.total.item(), merge([found.metrics])) == (2.5, {"policy/entropy": 2.0})


def test_at_the_first_step_ratio_is_1_and_kl_0() -> None:
    metrics = merge([clipped_ratio(torch.zeros(6), torch.ones(6), torch.ones(6), 0.2).metrics])
    assert metrics["policy/ratio"] == 1.0
    assert metrics["policy/approxkl"] == 0.0
    assert metrics["policy/clipfrac"] == 0.0


def test_an_overflowing_ratio_is_cut_counted_and_carries_no_gradient() -> None:
    ratios = torch.tensor([500.0, -500.0, 0.0], requires_grad=True)
    found = clipped_ratio(ratios, torch.tensor([-1.0, 1.0, 1.0]), torch.ones(3), 0.2)
    found.total.backward()
    assert found.total.item() == pytest.approx(math.exp(20) - math.exp(-20) - 1)
    assert ratios.grad is not None
    assert ratios.grad.tolist() == [0.0, 0.0, -1.0]
    metrics = merge([found.metrics])
    assert metrics["policy/ratio_cut"] == 2.0
    assert math.isfinite(metrics["policy/approxkl"])


def test_gradients_and_padding() -> None:
    logps, old, advantages, _ = _numbers(1)
    weights = torch.tensor([1.0, 0.5, 0.0] * 4, dtype=torch.float64)
    logps.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: clipped_ratio(log_ratio(x, old), advantages, weights, 0.2).total, (logps,)
    )
    hole = weights == 0
    clipped_ratio(
        log_ratio(logps, old).masked_fill(hole, torch.nan), advantages, weights, 0.2
    ).total.backward()
    assert logps.grad is not None
    assert torch.isfinite(logps.grad).all()
    assert not logps.grad[hole].any()


def test_no_real_tokens() -> None:
    x = torch.zeros(2, requires_grad=True)
    found = clipped_ratio(x, torch.ones(2), torch.zeros(2), 0.2)
    found.total.backward()
    assert found.total.item() == 0.0
    assert merge([found.metrics]) == {"policy/ratio_cut": 0.0}
