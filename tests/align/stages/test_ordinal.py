"""A reward model from ratings: what it learns, what it leaves behind, and how it goes on after a stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from transformers import AutoModelForSequenceClassification

from align.artifacts.store import Store
from align.config.schema import NoAdapter, TinyModel
from align.config.stages import RewardOptions
from align.data.types import Response, TokenRow
from align.data.views import is_test
from align.errors import DataError, Interrupted
from align.models.sources import materialise
from align.stages.base import StageContext
from align.stages.ordinal_objective import Ordinal
from align.stages.reward import Reward

WORDS = ("awful", "poor", "fair", "good", "superb")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Single answers, each with one of five words that says how many stars it has."""
    path = tmp_path / "stars.jsonl"
    rows = [
        {"prompt": f"tea {n}?", "answer": f"{WORDS[n % 5]} {'so ' * (n % 3)}", "rating": 1 + n % 5}
        for n in range(80)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stage(
    data: Path, folder: Path, stop: Any = lambda: False, also: Sequence[Path] = (), **given: Any
) -> Reward:
    options = RewardOptions.model_validate(
        {"kind": "reward", "data": [str(data), *map(str, also)], "loss": "ordinal", "max_prompt": 32,
         "max_answer": 16, "lr": 5e-3, "head_lr": 2e-2, "epochs": 4, "batch_size": 16,
         "checkpoint_every": 1, **given}
    )  # fmt: skip
    recipe: Any = SimpleNamespace(model=TinyModel(kind="tiny"), adapter=NoAdapter(kind="none"))
    base = materialise(TinyModel(kind="tiny"))
    work = Store(folder).work("reward", "k" * 64)
    return Reward(StageContext("rm", options, recipe, 0, base, {}, work, Mock(), stop))


def run(made: Reward, out: Path) -> dict[str, Any]:
    made.prepare()
    out.mkdir(exist_ok=True)
    return made.run(out)


def test_it_learns_ratings_of_single_answers(data: Path, tmp_path: Path) -> None:
    made = stage(data, tmp_path / "runs")
    summary = run(made, tmp_path / "out")
    rated = summary["quality"]["ratings"]
    assert "accuracy" not in summary["quality"], "single answers rank nothing"
    assert rated["error"]["mean"] < 0.5 * rated["usual_error"]["mean"]
    assert rated["order"] > 0.9
    saved = json.loads((tmp_path / "out" / "thresholds.json").read_text())
    assert saved["scale"] == rated["scale"] == [1, 2, 3, 4, 5]
    assert len(saved["thresholds"]) == 4
    assert saved["thresholds"] == sorted(saved["thresholds"])
    # Plain transformers, the thresholds as a list of numbers, and scipy come to the same report.
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.num_labels == 1
    rows = made.tokens["test"].rows
    assert rows
    with torch.no_grad():
        scores = [
            model(torch.tensor([[*row.prompt, *row.responses[0].ids]])).logits[0, 0].item() for row in rows
        ]
    stars = [row.ratings[0] for row in rows]
    told = [1 + sum(score > t for t in saved["thresholds"]) for score in scores]
    assert rated["error"]["mean"] == pytest.approx(np.mean(np.abs(np.subtract(told, stars))))
    assert rated["spearman"] == pytest.approx(scipy_stats.spearmanr(scores, stars).statistic, abs=1e-9)


def test_thresholds_start_at_the_frequencies_and_move(data: Path, tmp_path: Path) -> None:
    made = stage(data, tmp_path / "runs", epochs=1)
    run(made, tmp_path / "out")
    counts = np.bincount([int(row.ratings[0]) for row in made.tokens["train"].rows])[1:]
    shares = np.cumsum(counts + 0.5)[:-1] / (counts.sum() + 2.5)
    end = json.loads((tmp_path / "out" / "thresholds.json").read_text())["thresholds"]
    way = np.abs(np.array(end) - np.log(shares / (1 - shares)))
    assert 1e-4 < way.max() < 0.5
    norms = [name for name in made.ctx.work.metrics.rows()[0] if name.startswith("grad_norm/")]
    assert norms == ["grad_norm/reward"], "clipped with the model"


def test_a_stopped_stage_ends_with_the_same_thresholds_to_the_bit(data: Path, tmp_path: Path) -> None:
    run(stage(data, tmp_path / "whole"), tmp_path / "a")
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        run(stage(data, tmp_path / "runs", stop=lambda: next(asked)), tmp_path / "b")
    run(stage(data, tmp_path / "runs"), tmp_path / "b")
    for name in ("thresholds.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_held_out_answers_of_one_prompt_have_no_baselines_where_training_has_single_ones(
    data: Path, tmp_path: Path
) -> None:
    asked = [f"coffee {n}?" for n in range(60) if is_test(f"coffee {n}?", 0.1, "")]
    path = tmp_path / "several.jsonl"
    rows = [{"prompt": prompt, "answers": ["superb", "awful"], "ratings": [5, 1]} for prompt in asked]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = stage(data, tmp_path / "runs", also=[path], epochs=1)
    quality = run(made, tmp_path / "out")["quality"]
    assert all(len(row.ratings) == 1 for row in made.tokens["train"].rows)
    assert quality["accuracy"]["n"] == len(asked) > 1
    assert quality["baselines"] == {}
    assert list(quality["by_source"]["several"]) == ["reward_model"]


def test_answers_of_one_prompt_are_ordered_too(tmp_path: Path) -> None:
    path = tmp_path / "stars.jsonl"
    rows = [
        {"prompt": f"tea {n}?", "answers": ["superb", "poor", "fair"], "ratings": [0.9, 0.1, 0.4]}
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = run(stage(path, tmp_path / "runs", scale=[0.0, 0.5, 1.0]), tmp_path / "out")
    assert summary["quality"]["accuracy"]["mean"] == 1.0
    assert summary["quality"]["ratings"]["scale"] == [0, 0.5, 1]
    assert set(summary["quality"]["baselines"]) == {"length", "bag_of_words"}


def test_a_rating_outside_the_scale_is_refused_before_anything_runs(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        stage(data, tmp_path / "runs", scale=[1.0, 2.0, 3.0, 4.0]).prepare()
    assert str(error.value) == (
        "stages.rm.scale: the rating 5 lies outside the scale 1 to 4; mend it, or widen stages.rm.scale"
    )


def test_ratings_of_single_answers_under_another_loss_name_the_one_that_reads_them(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        stage(data, tmp_path / "runs", loss="bradley_terry").prepare()
    assert str(error.value) == (
        "stars: has no rows to train on (80 single answers, which rank nothing); "
        "a stage of kind reward learns from their ratings with loss=ordinal"
    )


def rated(*ratings: float) -> TokenRow:
    answers = (Response((2,), (1.0,)),) * len(ratings)
    return TokenRow("a", (1,), answers, tiers=(0,) * len(ratings), ratings=ratings)


def test_thresholds_learn_at_the_rate_of_the_head_and_the_usual_class_is_the_lower_median() -> None:
    ordinal = Ordinal.of((1.0, 2.0, 3.0), "scale", [rated(1.0, 3.0)])
    plain = {"kind": "reward", "data": "x", "loss": "ordinal", "lr": 1e-3}
    for given, lr in (({}, 1e-3), ({"head_lr": 1e-2}, 1e-2)):
        group = ordinal.group(RewardOptions.model_validate({**plain, **given}))
        assert (group.lr, group.clip_with) == (lr, "reward")
    held_out, train = [rated(2.0, 1.0)], [rated(3.0, 1.0), rated(1.0, 2.0)]
    assert ordinal.classes_and_usual(held_out, train) == ([[1, 0]], 0)
