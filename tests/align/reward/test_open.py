"""From a recipe's reward to a scorer."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from answered import answered

from align.artifacts.store import Artifact
from align.config.rewards import AnyReward, EnsembleReward, LengthPenalty, ModelReward, RegexReward
from align.config.schema import NoAdapter, TinyModel
from align.engine.batch import pack
from align.errors import NumericsError
from align.models.reward_model import RewardModel, new_reward_model
from align.models.sources import materialise
from align.reward.open import RULES, Models, open_scorer, weighted_sum
from align.reward.types import Scores

ANSWERS = [answered("yes", tokens=10), answered("no", tokens=14)]


def test_every_kind_has_its_scorer() -> None:
    kinds = set(get_args(get_args(AnyReward)[0]))
    assert kinds == {*RULES, ModelReward, EnsembleReward}


def test_scores_are_added_with_their_weights(tmp_path: Path) -> None:
    rewards: dict[str, AnyReward] = {
        "agrees": RegexReward(kind="regex", pattern="yes", weight=2.0),
        "short": LengthPenalty(kind="length_penalty", allowed=10, window=8, weight=0.5),
        "seen": RegexReward(kind="regex", pattern="no", weight=0.0),
    }
    scores = open_scorer(rewards, Models({}, tmp_path, None))(ANSWERS)
    assert scores.values.tolist() == [2.0, -0.25]  # 2 x 1 + 0.5 x 0, and 2 x 0 + 0.5 x -0.5
    assert {name: part.tolist() for name, part in scores.parts.items()} == {
        "agrees": [1.0, 0.0],
        "short": [0.0, -0.5],
        "seen": [0.0, 1.0],
    }


def test_parts_of_a_component_stand_under_its_name() -> None:
    scorer = weighted_sum(
        {"safe": lambda answers: Scores(torch.ones(2), {"std": torch.zeros(2)})}, {"safe": -1.0}
    )
    scores = scorer(ANSWERS)
    assert scores.values.tolist() == [-1.0, -1.0]
    assert set(scores.parts) == {"safe", "safe/std"}


def test_a_score_that_is_none_names_component_and_row() -> None:
    """Even where its weight would hide it."""
    scorer = weighted_sum({"odd": lambda answers: Scores(torch.tensor([0.0, float("nan")]))}, {"odd": 0.0})
    with pytest.raises(NumericsError, match="reward odd: the score is nan for row p/0"):
        scorer(ANSWERS)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    """Three reward models on a tiny base, saved as stages leave them."""
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    base = materialise(TinyModel(kind="tiny"))
    inputs = {}
    for seed, name in enumerate(("r1", "r2", "r3")):
        (tmp_path / name).mkdir()
        made = new_reward_model(base, base, None, NoAdapter(kind="none"), layers=None, seed=seed)
        made.save(tmp_path / name)
        inputs[name] = Artifact(tmp_path / name, None)  # type: ignore[arg-type]
    return Models(inputs, base, None)


@torch.no_grad()
def test_models_are_opened_once_and_combined(models: Models) -> None:
    rewards: dict[str, AnyReward] = {
        "helpful": ModelReward(kind="model", model="r1", weight=0.5),
        "safe": EnsembleReward(kind="ensemble", models=["r1", "r2", "r3"], combine="min"),
    }
    scores = open_scorer(rewards, models)(ANSWERS)
    assert set(models.opened) == {"r1", "r2", "r3"}

    def of(reward: RewardModel) -> torch.Tensor:
        return reward.scores(pack([answer.row for answer in ANSWERS]))

    r1, r2, r3 = (of(models.opened[name]) for name in ("r1", "r2", "r3"))
    want = 0.5 * r1 + torch.minimum(torch.minimum(r1, r2), r3)
    torch.testing.assert_close(scores.values, want)
    assert set(scores.parts) == {"helpful", "safe", "safe/r1", "safe/r2", "safe/r3", "safe/mean", "safe/std"}


@torch.no_grad()
def test_the_name_of_a_stage_is_that_model_and_an_open_one_is_taken(models: Models) -> None:
    open_scorer("r2", models)
    first = models.opened["r2"]
    scores = open_scorer("r2", models)(ANSWERS)
    assert models.opened == {"r2": first}
    torch.testing.assert_close(scores.values, first.scores(pack([answer.row for answer in ANSWERS])))
