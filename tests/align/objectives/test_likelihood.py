"""Weighted negative log-likelihood against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.trainer_pt_utils import LabelSmoother

from align.objectives.likelihood import dft, nll, smoothed_nll
from align.objectives.reduce import merge


def test_weighted_sum_by_hand() -> None:
    logps = torch.tensor([-1.0, -3.0, -9.0], requires_grad=True)
    loss = nll(logps, torch.tensor([1.0, 0.5, 0.0]))
    assert loss.total.item() == 1.0 + 1.5
    loss.total.backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [-1.0, -0.5, 0.0]
    # 2.5 over a weight of 1.5; 1 + 3 over two tokens.
    assert merge([loss.metrics]) == pytest.approx({"loss": 2.5 / 1.5, "nll": 2.0, "tokens": 2.0})


def test_equals_cross_entropy_of_the_logits() -> None:
    g = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(7, 11, generator=g), torch.randint(0, 11, (7,), generator=g)
    logps = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(nll(logps, torch.ones(7)).total, expected)


@pytest.mark.parametrize("left_out", [float("-inf"), float("nan")])
def test_a_token_of_weight_0_has_no_effect_whatever_it_is(left_out: float) -> None:
    logps = torch.tensor([-2.0, left_out], requires_grad=True)
    loss = nll(logps, torch.tensor([1.0, 0.0]))
    loss.total.backward()
    assert loss.total.item() == 2.0
    assert logps.grad is not None
    assert logps.grad.tolist() == [-1.0, 0.0]


def test_no_tokens_is_a_loss_of_0() -> None:
    loss = nll(torch.zeros(0, requires_grad=True), torch.zeros(0))
    loss.total.backward()
    assert loss.total.item() == 0.0
    assert merge([loss.metrics]) == {"tokens": 0.0}


def logits_and_targets() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(7, 11, generator=g), torch.randint(0, 11, (7,), generator=g)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_smoothing_equals_torch_and_transformers(smoothing: float) -> None:
    logits, targets = logits_and_targets()
    every = logits.log_softmax(-1)
    logps = every.gather(1, targets[:, None])[:, 0]
    loss = smoothed_nll(logps, every.mean(-1), torch.ones(7), smoothing)
    by_torch = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    torch.testing.assert_close(loss.total / 7, by_torch)
    theirs = LabelSmoother(smoothing)({"logits": logits[None]}, targets[None])
    torch.testing.assert_close(loss.total / 7, theirs)
    assert merge([loss.metrics])["nll"] == pytest.approx(float(-logps.mean())), "without the smoothing"


def test_smoothing_weighs_tokens_by_hand() -> None:
    logps, means = torch.tensor([-1.0, -2.0, float("-inf")]), torch.tensor([-3.0, -6.0, float("nan")])
    loss = smoothed_nll(logps, means, torch.tensor([1.0, 0.5, 0.0]), 0.25)
    assert loss.total.item() == (0.75 * 1 + 0.25 * 3) + 0.5 * (0.75 * 2 + 0.25 * 6)


def test_dft_holds_the_probability_fixed_and_counts_it_not() -> None:
    logps = torch.tensor([0.5, 0.25, 0.1]).log().requires_grad_()
    loss = dft(logps, torch.tensor([1.0, 2.0, 0.0]))
    loss.total.backward()
    assert loss.total.item() == pytest.approx(-0.5 * math.log(0.5) - 2 * 0.25 * math.log(0.25))
    assert logps.grad is not None
    assert logps.grad.tolist() == pytest.approx([-0.5, -0.5, 0.0])
    told = merge([loss.metrics])
    assert told["loss"] == pytest.approx(loss.total.item() / 3)
    assert told["nll"] == pytest.approx((math.log(2) + math.log(4)) / 2)
