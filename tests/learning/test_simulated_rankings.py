"""PPO on a real, small model: what it gains is measured by a rule that it was never shown."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = ROOT / "examples" / "simulated_rankings.py"
    spec = importlib.util.spec_from_file_location("simulated_rankings", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("", 0.0),
        ("One two three four five six.", 1.0),
        ("One two three four five six seven.", 6 / 7),
        ("a b c d e f g h i j k l.", 1 / 7),
        ("a b c d e f g h i j k l m.", 0.0),
        ("Oh no! Yes.", 0.0),  # scraps
        ("He ran off. He ran off. He ran off.", 1 / 3),  # said before
        ("He ran off! And a b c d e f g h i j k l m n", 3 / 18),  # a cut sentence counts as it stands
    ],
)
def test_the_rule_by_hand(example: ModuleType, text: str, rating: float) -> None:
    assert example.plainness(text) == pytest.approx(rating)


def test_openings_are_different_and_spread_over_the_lists(example: ModuleType) -> None:
    assert len(set(example.openings())) == 6 * 10 * 6
    some = example.openings(60)
    assert len(set(some)) == 60
    assert {scene for scene in example.SCENES if any(scene in text for text in some)} == set(example.SCENES)


@pytest.mark.shared
@pytest.mark.slow
def test_ppo_raises_the_true_rating_by_way_of_rankings_alone(
    example: ModuleType, shared: Path, tmp_path: Path
) -> None:
    short = ["stages.ppo.iterations=5", "stages.ppo.prompts_per_iteration=64", "stages.ppo.lr=5e-4"]
    outcome = example.simulate(
        shared / "models" / "stories260k", tmp_path, seed=0, overrides=short, count=120
    )
    # Three seeds gave accuracies of .81 to .84, gains of .27 to .32 and 10 to 13 nats.
    assert outcome.quality["accuracy"]["low"] > 0.7
    assert outcome.quality["accuracy"]["mean"] > outcome.quality["baselines"]["bag_of_words"]["mean"]
    assert outcome.gain.low > 0.1
    assert 1.0 < outcome.kl < 25.0, "far from the base model a higher rating means little"
