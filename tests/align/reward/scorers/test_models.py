"""Ensembles of scorers by hand; scores of real reward models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from answered import answered

from align.config.rewards import EnsembleReward
from align.config.schema import NoAdapter, TinyModel
from align.engine.batch import pack
from align.errors import NumericsError
from align.models.reward_model import new_reward_model
from align.models.sources import materialise
from align.reward.scorers.models import ensemble_scorer, model_scorer
from align.reward.types import Answered, Scorer, Scores

ANSWERS = [answered(name="p/0"), answered(name="p/1")]


def fixed(*values: float) -> Scorer:
    def scorer(answers: Sequence[Answered]) -> Scores:
        return Scores(torch.tensor(values))

    return scorer


# Means 2 and 4; of 1, 2, 3 the variance is (1 + 0 + 1) / 3, of 4, 4, 4 it is 0.
MEMBERS = {"r1": fixed(1.0, 4.0), "r2": fixed(2.0, 4.0), "r3": fixed(3.0, 4.0)}
STD = (2 / 3) ** 0.5


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"combine": "mean"}, [2.0, 4.0]),
        ({"combine": "min"}, [1.0, 4.0]),
        ({}, [2.0 - STD, 4.0]),
        ({"std_weight": 0.5}, [2.0 - 0.5 * STD, 4.0]),
    ],
)
def test_members_are_combined(options: dict[str, Any], values: list[float]) -> None:
    reward = EnsembleReward(kind="ensemble", models=list(MEMBERS), **options)
    scores = ensemble_scorer(reward, MEMBERS)(ANSWERS)
    assert scores.values.tolist() == pytest.approx(values)
    assert {name: part.tolist() for name, part in scores.parts.items()} == {
        "r1": [1.0, 4.0],
        "r2": [2.0, 4.0],
        "r3": [3.0, 4.0],
        "mean": [2.0, 4.0],
        "std": pytest.approx([STD, 0.0]),
    }


def test_a_member_without_a_score_is_named() -> None:
    """The minimum would hide it."""
    reward = EnsembleReward(kind="ensemble", models=["r1", "bad"], combine="min")
    members = {"r1": fixed(1.0, 4.0), "bad": fixed(0.0, float("nan"))}
    with pytest.raises(NumericsError, match="bad: the score is nan for row p/1"):
        ensemble_scorer(reward, members)(ANSWERS)


@torch.no_grad()
def test_a_reward_model_scores_each_answer_alone_as_in_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path))
    base = materialise(TinyModel(kind="tiny"))
    reward = new_reward_model(base, base, None, NoAdapter(kind="none"), layers=None, seed=0)
    answers = [answered(tokens=n) for n in (1, 6, 3)]
    scores = model_scorer(reward, reward.budget(64))(answers).values
    alone = [float(reward.scores(pack([answer.row]))) for answer in answers]
    assert scores.tolist() == pytest.approx(alone, abs=1e-5)
    assert len(set(alone)) == 3
