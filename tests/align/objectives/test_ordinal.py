"""Ratings on a scale: the likelihood written out in numpy, its gradient, and what it does far out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import logistic

from align.objectives.ordinal import (
    classes_of,
    cumulative_link,
    marginal_thresholds,
    steps_of,
    thresholds_of,
)
from align.objectives.reduce import merge

THRESHOLDS = torch.tensor([-1.5, 0.25, 2.0], dtype=torch.float64)
SCORES = torch.tensor([[0.5, -2.0, 3.0], [1.0, 0.0, 9.0]], dtype=torch.float64)
CLASSES = torch.tensor([[2, 0, 3], [1, 3, 7]])
MASK = torch.tensor([[True, True, True], [True, True, False]])


def probability(score: float, level: int, thresholds: list[float]) -> float:
    """Of a class: a latent logistic variable around the score falls between its two thresholds."""
    edges = [-np.inf, *thresholds, np.inf]
    return float(logistic.cdf(edges[level + 1] - score) - logistic.cdf(edges[level] - score))


def test_it_is_the_likelihood_of_a_latent_logistic_variable() -> None:
    found = cumulative_link(SCORES, CLASSES, MASK, THRESHOLDS)
    want = 0.0
    for scores, classes, mask in zip(SCORES.tolist(), CLASSES.tolist(), MASK.tolist(), strict=True):
        each = [
            -np.log(probability(s, c, THRESHOLDS.tolist()))
            for s, c, real in zip(scores, classes, mask, strict=True)
            if real
        ]
        want += np.mean(each)
    assert found.total.item() == pytest.approx(want, rel=1e-12)
    metrics = merge([found.metrics])
    # Told: 2, 0, 3 of 2, 0, 3; then 2 and 1 of 1 and 3.
    assert metrics["class/accuracy"] == pytest.approx((1 + 0) / 2)
    assert metrics["class/error"] == pytest.approx((0 + (1 + 2) / 2) / 2)
    assert metrics["loss"] == pytest.approx(want / 2)


def test_the_probabilities_of_all_classes_add_up_to_1() -> None:
    scores = torch.linspace(-30, 30, 13, dtype=torch.float64)
    total = torch.zeros_like(scores)
    one = torch.ones(1, 1, dtype=torch.bool)
    for i, s in enumerate(scores):
        for level in range(4):
            total[i] += (
                cumulative_link(s.view(1, 1), torch.tensor([[level]]), one, THRESHOLDS).total.neg().exp()
            )
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=1e-12)


def test_two_levels_are_a_logistic_regression() -> None:
    scores, classes = torch.tensor([[0.3], [-1.2]]), torch.tensor([[1], [0]])
    found = cumulative_link(scores, classes, torch.ones(2, 1, dtype=torch.bool), torch.tensor([0.5]))
    assert found.total.item() == pytest.approx(-np.log(expit(0.3 - 0.5)) - np.log(1 - expit(-1.2 - 0.5)))


def test_gradients() -> None:
    scores, steps = SCORES.clone().requires_grad_(), steps_of(THRESHOLDS).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s, t: cumulative_link(s, CLASSES, MASK, thresholds_of(t)).total, (scores, steps)
    )


@pytest.mark.parametrize("far", [50.0, -50.0, 1e4, -1e4])
def test_far_out_it_is_finite_and_goes_on_to_pull(far: float) -> None:
    for level in range(4):
        scores = torch.full((1, 1), far).requires_grad_()
        steps = steps_of(THRESHOLDS.float()).requires_grad_()
        loss = cumulative_link(
            scores, torch.tensor([[level]]), torch.ones(1, 1, dtype=torch.bool), thresholds_of(steps)
        )
        loss.total.backward()
        assert scores.grad is not None
        assert steps.grad is not None
        assert torch.isfinite(loss.total)
        assert torch.isfinite(steps.grad).all()
        right = (level == 3) if far > 0 else (level == 0)
        assert scores.grad.item() == pytest.approx(0.0 if right else np.sign(far), abs=1e-6)


def test_at_a_score_of_0_the_classes_have_their_frequencies() -> None:
    counts = [5, 0, 20, 75]
    thresholds = marginal_thresholds(counts).double().tolist()
    found = [probability(0.0, level, thresholds) for level in range(4)]
    assert found == pytest.approx([(n + 0.5) / 102 for n in counts], rel=1e-5)


def test_thresholds_rise_whatever_is_learned() -> None:
    for steps in itertools.product([-40.0, 0.0, 3.0], repeat=3):
        assert (thresholds_of(torch.tensor(steps, dtype=torch.float64)).diff() >= 0).all()
    torch.testing.assert_close(thresholds_of(steps_of(THRESHOLDS)), THRESHOLDS)


def test_the_class_is_that_of_the_median() -> None:
    scores = torch.linspace(-4, 4, 33, dtype=torch.float64)
    for s, found in zip(scores.tolist(), classes_of(scores, THRESHOLDS).tolist(), strict=True):
        spread = np.cumsum([probability(s, level, THRESHOLDS.tolist()) for level in range(4)])
        assert found == int(np.argmax(spread >= 0.5 - 1e-12))


@pytest.mark.parametrize("stray", [float("nan"), float("inf"), 1e30])
def test_what_stands_beside_a_prompts_answers_has_no_effect_whatever_it_is(stray: float) -> None:
    scores = torch.where(MASK, SCORES, stray).requires_grad_()
    found = cumulative_link(scores, CLASSES, MASK, THRESHOLDS)
    found.total.backward()
    assert found.total.item() == cumulative_link(SCORES, CLASSES, MASK, THRESHOLDS).total.item()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[~MASK].tolist() == [0.0]
