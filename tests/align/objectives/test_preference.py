"""DPO: by hand, against the formula as TRL writes it, and the value at step 0."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from align.errors import ConfigError
from align.objectives.preference import PREFERENCE_LOSSES, dpo_sigmoid
from align.objectives.reduce import merge


def _draw(pairs: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [-5 * torch.rand(pairs, generator=g, dtype=torch.float64) for _ in range(4)]


def test_by_hand() -> None:
    one = torch.ones(1)
    loss = dpo_sigmoid(-2 * one, -5 * one, -3 * one, -4.5 * one, beta=0.5)
    # chosen 0.5 (-2 + 3) = 0.5, rejected 0.5 (-5 + 4.5) = -0.25, difference 0.75.
    assert loss.total.item() == pytest.approx(math.log(1 + math.exp(-0.75)))
    assert merge([loss.metrics]) == pytest.approx(
        {
            "loss": math.log(1 + math.exp(-0.75)),
            "rewards/chosen": 0.5,
            "rewards/rejected": -0.25,
            "rewards/accuracies": 1.0,
            "rewards/margins": 0.75,
            "logps/chosen": -2.0,
            "logps/rejected": -5.0,
        }
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_against_the_log_ratio_form(smoothing: float) -> None:
    pc, pr, rc, rr = _draw(8)
    # TRL: delta of the policy's and the reference's log-ratios; summed here, where it takes the mean.
    delta = (pc - pr) - (rc - rr)
    expected = -(1 - smoothing) * F.logsigmoid(0.3 * delta) - smoothing * F.logsigmoid(-0.3 * delta)
    loss = dpo_sigmoid(pc, pr, rc, rr, beta=0.3, label_smoothing=smoothing)
    torch.testing.assert_close(loss.total, expected.sum())
    metrics = merge([loss.metrics])
    assert metrics["rewards/accuracies"] == pytest.approx(((delta > 0).double().mean()).item())
    assert metrics["rewards/margins"] == pytest.approx((0.3 * delta).mean().item())


def test_at_step_0_the_loss_is_ln_2_and_nothing_is_accurate() -> None:
    pc, pr, _, _ = _draw(4)
    for smoothing in (0.0, 0.3):
        loss = dpo_sigmoid(pc, pr, pc, pr, beta=0.1, label_smoothing=smoothing)
        assert loss.total.item() / 4 == pytest.approx(math.log(2))
        assert merge([loss.metrics])["rewards/accuracies"] == 0.0


def test_a_step_downhill_raises_chosen_over_rejected() -> None:
    pc, pr, rc, rr = _draw(4)
    pc.requires_grad_()
    pr.requires_grad_()
    dpo_sigmoid(pc, pr, rc, rr, beta=0.1).total.backward()
    assert pc.grad is not None
    assert pr.grad is not None
    assert (pc.grad < 0).all()
    assert (pr.grad > 0).all()


def test_gradients() -> None:
    pc, pr, rc, rr = _draw(3)
    inputs = (pc.requires_grad_(), pr.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: dpo_sigmoid(a, b, rc, rr, 0.7, 0.1).total, inputs)


def test_huge_log_ratios_stay_finite() -> None:
    big = torch.tensor([1e4], requires_grad=True)
    loss = dpo_sigmoid(-big, big, torch.zeros(1), torch.zeros(1), beta=1.0, label_smoothing=0.1)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert big.grad is not None
    assert torch.isfinite(big.grad).all()


def test_no_pairs_is_a_loss_of_0() -> None:
    none = torch.zeros(0)
    loss = dpo_sigmoid(none, none, none, none, beta=0.1)
    assert loss.total.item() == 0.0
    assert merge([loss.metrics]) == {}


def test_registry_names_the_losses() -> None:
    assert PREFERENCE_LOSSES.get("sigmoid") is dpo_sigmoid
    with pytest.raises(ConfigError, match="sigmoid"):
        PREFERENCE_LOSSES.get("sigmoidd")
