"""The report on a reward model against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from align.data.types import Message, Ranking
from align.reward.quality import rating_report, report, step_report

ASKED = (Message("user", "tea?"),)


def ranking(name: str, answers: tuple[str, ...], tiers: tuple[int, ...], source: str) -> Ranking:
    return Ranking(name, ASKED, answers, tiers, (), source)


# In training the longer answer is better and speaks of water; in the held-out rankings it is the other way
# about.
TRAIN = [ranking(str(n), ("boil some water now", "no idea"), (0, 1), "train") for n in range(4)]
HELD_OUT = [
    ranking("a", ("no idea", "boil some water now"), (0, 1), "x"),
    ranking("b", ("boil some water now", "no idea"), (0, 1), "y"),
    ranking("c", ("no idea", "boil some water now"), (0, 1), "y"),
]
SCORES = [np.array([1.0, 0.0]), np.array([3.0, 0.0]), np.array([0.0, 2.0])]


def test_baselines_learn_from_training_rankings_alone() -> None:
    found = report(TRAIN, HELD_OUT, SCORES, seed=0)
    assert found["baselines"]["length"]["rule"] == "longer wins"
    assert found["baselines"]["length"]["mean"] == pytest.approx(1 / 3)
    assert found["baselines"]["bag_of_words"]["mean"] == pytest.approx(1 / 3)
    assert found["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert found["accuracy"]["n"] == 3


def test_without_training_rankings_there_is_nothing_to_compare_with() -> None:
    found = report([], HELD_OUT, SCORES, seed=0)
    assert found["baselines"] == {}
    assert found["accuracy"] == report(TRAIN, HELD_OUT, SCORES, seed=0)["accuracy"]
    assert {source: list(one) for source, one in found["by_source"].items()} == {
        "x": ["reward_model"],
        "y": ["reward_model"],
    }


def test_a_source_is_measured_by_its_own_rankings() -> None:
    found = report(TRAIN, HELD_OUT, SCORES, seed=0)["by_source"]
    means = {source: {name: one["mean"] for name, one in table.items()} for source, table in found.items()}
    assert means == {
        "x": {"reward_model": 1.0, "bag_of_words": 0.0, "length": 0.0},
        "y": {"reward_model": 0.5, "bag_of_words": 0.5, "length": 0.5},
    }
    assert (found["x"]["length"]["n"], found["y"]["length"]["n"]) == (1, 2)


def test_calibration_is_that_of_the_reward_model() -> None:
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    # Ahead by 1 and right, by 3 and right, by 2 and wrong: bins .7, .9 and .8.
    found = report(TRAIN, HELD_OUT, SCORES, seed=0)
    gaps = (1 - sigmoid(1), 1 - sigmoid(3), sigmoid(2))
    assert found["ece"] == pytest.approx(sum(gaps) / 3)
    assert [one["observed"] for one in found["calibration"]] == [1.0, 0.0, 1.0]


def test_nothing_held_out_gives_no_report() -> None:
    assert report(TRAIN, [], [], seed=0) == {}


def test_ratings_by_hand() -> None:
    scores = [np.array([-2.0, 0.5]), np.array([0.5]), np.array([3.0, -1.0, 0.0])]
    classes = [[0, 2], [1], [2, 0, 1]]
    found = rating_report(scores, classes, np.array([-0.5, 1.0]), usual=1, seed=0)
    # Told: 0 1, 1, 2 0 1. A prompt's answers are 1/2, 0 and 0 off; always 1 is 1, 0 and 2/3 off.
    assert found["error"]["mean"] == pytest.approx(1 / 6)
    assert found["usual_error"]["mean"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert (found["error"]["n"], found["answers"]) == (3, 6)
    # 12 pairs of different classes; the score 1/2 stands for a 2 and for a 1, so they tie.
    assert found["order"] == pytest.approx((12 - 0.5) / 12)
    assert found["spearman"] == pytest.approx(
        scipy_stats.spearmanr([-2, 0.5, 0.5, 3, -1, 0], [0, 2, 1, 2, 0, 1]).statistic
    )
    assert rating_report([], [], np.array([0.0]), usual=0, seed=0) == {}
    alike = rating_report([np.array([1.0, 2.0])], [[1, 1]], np.array([0.0]), usual=1, seed=0)
    assert (alike["order"], alike["spearman"]) == (None, None)


def test_steps_by_hand() -> None:
    values = [np.array([0.9, 0.4]), np.array([0.6]), np.array([0.8, 0.7, 0.2])]
    labels = [np.array([1.0, 0.0]), np.array([1.0]), np.array([1.0, 0.0, 1.0])]
    found = step_report(values, labels, 1.0, min, probabilities=True, seed=0)
    assert found["accuracy"]["mean"] == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert found["usual_accuracy"]["mean"] == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)
    # Right: .9 .6 .8 .2; wrong: .4 .7. Of eight pairs .6 < .7, .2 < .4 and .2 < .7 are out of order.
    assert found["order"] == pytest.approx(5 / 8)
    # By their worst step .4 and .2 against .6, of which only the second answer is right throughout.
    assert (found["answers_order"], found["steps"]) == (1.0, 6)
    far = step_report(values, labels, 0.5, max, probabilities=False, seed=0)
    assert far["error"]["mean"] == pytest.approx((0.25 + 0.4 + (0.2 + 0.7 + 0.8) / 3) / 3)
    assert far["usual_error"]["mean"] == pytest.approx(0.5)
    assert far["answers_order"] is None, "the best step of each answer is right"
