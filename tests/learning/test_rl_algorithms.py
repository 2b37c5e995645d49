"""Every algorithm on a real, small model: a stated reward at a stated KL, in seconds.

The reward is the rule of `examples/simulated_rankings.py`: how plain the sentences of a story are, from 0
to 1. The model starts at .43 to .49. Over seeds 0 to 2 the last of six rounds was at .74 (remax) to .95
(best_of_n), 12 to 24 nats from the start, where a KL is charged.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from align.artifacts.store import Store
from align.reward import functions
from align.run import main

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RULE = """
import sys
sys.path.insert(0, {examples!r})
from simulated_rankings import plainness

def plain(answers):
    return [plainness(answer.text.strip()) for answer in answers]
"""
RL: dict[str, Any] = {
    "kind": "rl", "policy": "base", "reward": {"rule": {"kind": "function", "name": "plain"}}, "max_prompt":
    64, "iterations": 6, "prompts_per_iteration": 16, "samples_per_prompt": 4, "epochs": 2, "minibatches":
    4, "lr": 6e-4, "kl_coef": 0.05, "missing_eos_penalty": 0.0, "sampling": {"max_new_tokens": 32},
    "schedule": "constant", "save_every": 50,
}  # fmt: skip
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {"advantage": "gae", "critic_lr": 1e-3},
    "grpo": {
        "advantage": "grpo",
        "kl": "k3",
        "kl_in": "loss",
        "normalise": "sequence",
        "reward_scale": "none",
    },
    "dr_grpo": {"advantage": "dr_grpo", "normalise": "constant"},
    "dapo": {"advantage": "grpo", "clip_high": 0.28, "resample": 1, "kl": "none", "reward_scale": "none"},
    "gspo": {"advantage": "grpo", "ratio": "geometric_mean", "normalise": "sequence", "clip": 0.1},
    "cispo": {"advantage": "grpo", "loss": "cispo", "lr": 3e-4},
    "rloo": {"advantage": "rloo", "ratio": "product", "normalise": "sequence", "kl_coef": 0.2},
    "reinforce_pp": {"advantage": "reinforce_pp"},
    "reinforce_pp_baseline": {"advantage": "reinforce_pp_baseline"},
    "remax": {"advantage": "remax", "whiten": True},
    "best_of_n": {"advantage": "best_of_n", "kl": "none"},
}
LEAST = 0.7  # reward of the last round
MOST = {  # nats per answer, above the largest of three seeds on one thread and on two
    "ppo": 19.0, "grpo": 19.0, "dr_grpo": 22.0, "gspo": 26.0, "cispo": 30.0, "rloo": 22.0, "reinforce_pp":
    17.0, "reinforce_pp_baseline": 19.0, "remax": 17.0,
}  # fmt: skip


def rounds(algorithm: str, shared: Path, folder: Path, seed: int = 0) -> list[dict[str, float]]:
    """Metrics of each round of one algorithm."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        from simulated_rankings import openings
    finally:
        sys.path.pop(0)
    options = {**RL, **ALGORITHMS[algorithm], "prompts": str(folder / "prompts.jsonl")}
    if options.get("kl") == "none":
        del options["kl_coef"]
    recipe = {
        "defaults": [{"override /model": "path"}, {"override /adapter": "none"}],
        "hardware": {"threads": 1},
        "stages": {"rl": options},
    }
    (folder / "mine" / "recipe").mkdir(parents=True)
    (folder / "mine" / "recipe" / "mine.yaml").write_text("# @package _global_\n" + json.dumps(recipe))
    (folder / "rule.py").write_text(RULE.format(examples=str(EXAMPLES)))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in openings(120)))
    model = shared / "models" / "stories260k"
    words = [
        "--config-dir", str(folder / "mine"), "recipe=mine", f"model.path={model}", f"seed={seed}",
        f"runs={folder / 'runs'}", f"rewards_from={folder / 'rule.py'}",
    ]  # fmt: skip
    try:
        assert main(words) == 0
    finally:
        functions.unload()
    (made,) = Store(folder / "runs" / "artifacts").all()
    return [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.shared
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_reaches_the_reward_at_the_kl(algorithm: str, shared: Path, tmp_path: Path) -> None:
    found = rounds(algorithm, shared, tmp_path)
    assert found[0]["objective/scores"] < 0.5
    assert found[-1]["objective/scores"] > LEAST
    if algorithm in MOST:
        assert found[-1]["objective/kl"] < MOST[algorithm]
