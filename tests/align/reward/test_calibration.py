"""Calibration: the error counted by hand and by a loop, and what perfect calibration gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from align.data.types import Message, Ranking
from align.reward.calibration import ece, pair_probabilities, reliability


def _ranking(tiers: tuple[int, ...]) -> Ranking:
    return Ranking("a", (Message("user", "?"),), tuple("abcdefgh"[: len(tiers)]), tiers)


def test_pairs_by_hand() -> None:
    found = pair_probabilities([[2.0, 0.0, 2.0], [0.0, 1.0]], [_ranking((0, 1, 1)), _ranking((0, 1))])
    # Ahead by 2 and right; equal; behind by 1, so the model said the other one with sigmoid(1) and was wrong.
    assert found.prob.tolist() == pytest.approx([1 / (1 + math.exp(-2)), 0.5, 1 / (1 + math.exp(-1))])
    assert found.outcome.tolist() == [1.0, 0.5, 0.0]
    assert found.weight.tolist() == [0.5, 0.5, 1.0]


def test_huge_differences_are_sure_and_not_nan() -> None:
    found = pair_probabilities([[1e6, -1e6]], [_ranking((1, 0))])
    assert (found.prob.tolist(), found.outcome.tolist()) == ([1.0], [0.0])


def test_no_pairs_give_no_curve() -> None:
    assert reliability(*pair_probabilities([[1.0, 2.0]], [_ranking((0, 0))])) == reliability(
        np.zeros(0), np.zeros(0)
    )
    assert reliability(np.zeros(0), np.zeros(0)).ece == 0.0


def test_curve_by_hand() -> None:
    prob, outcome = np.array([0.55, 0.59, 0.91, 1.0]), np.array([1.0, 0.0, 1.0, 0.0])
    curve = reliability(prob, outcome)
    assert curve.bins == [
        {"p": pytest.approx(0.57), "observed": 0.5, "n": 2.0},
        {"p": pytest.approx(0.955), "observed": 0.5, "n": 2.0},
    ]
    assert curve.ece == pytest.approx((0.07 + 0.455) / 2)
    # With weights 3 and 1 in the first bin: predicted 0.56, observed 0.75; the bins weigh 4 and 2 of 6.
    weighed = reliability(prob, outcome, np.array([3.0, 1.0, 1.0, 1.0]))
    assert weighed.ece == pytest.approx(4 / 6 * 0.19 + 2 / 6 * 0.455)


def test_a_bin_holds_its_lower_edge() -> None:
    """Equal scores, probability 1/2, share the bin of those that hardly differ."""
    curve = reliability(np.array([0.5, 0.54, 0.625, 0.75]), np.ones(4), bins=8)
    assert [(one["p"], one["n"]) for one in curve.bins] == [(0.52, 2.0), (0.625, 1.0), (0.75, 1.0)]


@pytest.mark.parametrize("bins", [1, 5, 10])
def test_error_against_a_loop(bins: int) -> None:
    rng = np.random.default_rng(0)
    prob, outcome = rng.random(200), rng.integers(0, 2, 200).astype(float)
    expected = 0.0
    for b in range(bins):
        inside = [i for i in range(200) if b / bins <= prob[i] < (b + 1) / bins]
        if inside:
            gap = sum(prob[i] for i in inside) - sum(outcome[i] for i in inside)
            expected += abs(gap) / 200
    assert ece(prob, outcome, bins) == pytest.approx(expected)


def test_a_model_that_means_what_it_says_has_a_small_error_and_an_overconfident_one_a_large() -> None:
    rng = np.random.default_rng(1)
    rankings, honest = [], []
    for _ in range(4000):
        difference = float(rng.normal(scale=2))
        first_is_better = rng.random() < 1 / (1 + math.exp(-difference))
        rankings.append(_ranking((0, 1) if first_is_better else (1, 0)))
        honest.append([difference, 0.0])
    assert reliability(*pair_probabilities(honest, rankings)).ece < 0.02
    boasting = [[10 * a, b] for a, b in honest]
    assert reliability(*pair_probabilities(boasting, rankings)).ece > 0.1
