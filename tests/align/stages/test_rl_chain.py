"""Whole stages on the tiny model: every advantage and loss learns a stated rule, samples become data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from align.artifacts.store import Artifact, Store
from align.reward import functions
from align.run import main

RULE = """
def short(answers):
    return [-len(a.text) / 10 for a in answers]
"""
RL: dict[str, Any] = {
    "kind": "rl", "policy": "base", "reward": {"rule": {"kind": "function", "name": "short"}},
    "prompts": {"card": "everyday_prompts", "limit": 8}, "max_prompt": 32, "iterations": 3,
    "prompts_per_iteration": 4, "samples_per_prompt": 4, "minibatches": 2, "epochs": 1, "lr": 3e-3,
    "sampling": {"max_new_tokens": 6}, "missing_eos_penalty": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def run(folder: Path, stages: dict[str, Any], *overrides: str) -> dict[str, Artifact]:
    """Run a recipe of one's own with the rule, and return its artifacts by stage."""
    (folder / "mine" / "recipe").mkdir(parents=True, exist_ok=True)
    recipe = {"defaults": [{"override /model": "tiny"}], "stages": stages}
    (folder / "mine" / "recipe" / "mine.yaml").write_text("# @package _global_\n" + json.dumps(recipe))
    (folder / "rule.py").write_text(RULE)
    words = ["--config-dir", str(folder / "mine"), "recipe=mine", f"runs={folder / 'runs'}", *overrides]
    try:
        assert main([*words, f"rewards_from={folder / 'rule.py'}"]) == 0
    finally:
        functions.unload()
    return {a.stage: a for a in Store(folder / "runs" / "artifacts").all()}


def rows(artifact: Artifact) -> list[dict[str, float]]:
    return [json.loads(line) for line in (artifact.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "options",
    [
        {"advantage": "gae"},
        {"advantage": "grpo", "kl": "k3", "kl_in": "loss", "normalise": "sequence", "entropy_coef": 0.01},
        {"advantage": "dr_grpo", "normalise": "constant", "clip_high": 0.28, "dual_clip": 3.0},
        {"advantage": "rloo", "ratio": "product", "normalise": "sequence", "reference_every": 1},
        {"advantage": "reinforce_pp", "reward_scale": "running", "reward_clip": 5.0},
        {"advantage": "reinforce_pp_baseline", "loss": "cispo"},
        {"advantage": "remax", "kl": "none"},
        {"advantage": "best_of_n", "ratio": "geometric_mean", "normalise": "sequence", "resample": 1},
        {"advantage": "grpo", "ptx_data": {"card": "everyday_answers", "limit": 8}, "ptx_coef": 0.1,
         "drop_cut": True},
    ],
    ids=lambda options: "-".join(map(str, options.values()))[:40],
)  # fmt: skip
def test_every_part_runs_and_leaves_finite_numbers(tmp_path: Path, options: dict[str, Any]) -> None:
    found = rows(run(tmp_path, {"rl": {**RL, **options}})["rl"])
    assert [row["iteration"] for row in found] == [1.0, 2.0, 3.0]
    assert all(math.isfinite(value) for row in found for value in row.values())
    assert found[0]["policy/ratio"] == pytest.approx(1, abs=0.2)
    assert ("val/error" in found[0]) == (options["advantage"] == "gae")
    assert ("loss/kl" in found[0]) == (options.get("kl_in") == "loss")
    assert ("loss/ptx" in found[0]) == ("ptx_data" in options)
    assert found[0]["reward/rule"] == pytest.approx(found[0]["objective/scores"])
    if "reference_every" in options:  # of the round before, so it is at most one round away
        assert [row["objective/kl"] for row in found] == pytest.approx([0.0] * 3, abs=1e-4)


def test_a_reference_that_moves_is_that_of_the_uninterrupted_run(tmp_path: Path) -> None:
    """Stopped behind each round by a state alone: the same rows, bit for bit."""
    from align.training import loop

    options = {**RL, "advantage": "rloo", "reference_every": 2, "iterations": 4}
    whole = rows(run(tmp_path / "whole", {"rl": options})["rl"])
    saved, step = loop._save, 0

    def stop_after_saving(task: Any, done: int, *rest: Any) -> None:
        nonlocal step
        saved(task, done, *rest)
        if done > step:
            step = done
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_save", stop_after_saving)
        for _ in range(3):
            with pytest.raises(AssertionError):
                run(tmp_path / "cut", {"rl": options})
    assert rows(run(tmp_path / "cut", {"rl": options})["rl"]) == whole


def test_samples_are_data_for_later_stages(tmp_path: Path) -> None:
    sample = {
        "kind": "sample", "reward": RL["reward"], "prompts": RL["prompts"], "samples_per_prompt": 4,
        "max_prompt": 32, "sampling": {"max_new_tokens": 6}, "drop_cut": False,
    }  # fmt: skip
    short = {"max_prompt": 32, "max_answer": 12, "batch_size": 4}
    stages = {
        "best": {**sample, "keep": "best"},
        "all": {**sample, "keep": "ranking"},
        "sft": {"kind": "sft", "data": {"stage": "best"}, **short},
        "dpo": {"kind": "dpo", "data": [{"stage": "all"}], "loss": "plackett_luce", **short},
    }
    made = run(tmp_path, stages)
    assert {name: artifact.kind for name, artifact in made.items()} == {
        "best": "dataset", "all": "dataset", "sft": "policy", "dpo": "policy",
    }  # fmt: skip
    best = [json.loads(line) for line in (made["best"].path / "rows.jsonl").read_text().splitlines()]
    ranked = {
        row["id"]: row for row in map(json.loads, (made["all"].path / "rows.jsonl").read_text().splitlines())
    }
    assert best
    for row in best:
        answer, scores = row["messages"][-1]["content"], ranked[row["id"]]["ratings"]
        assert -len(answer) / 10 == pytest.approx(max(scores)), "of the same draws the best one"
        assert scores == pytest.approx([-len(text) / 10 for text in ranked[row["id"]]["answers"]])
        assert row["messages"][:-1] == ranked[row["id"]]["prompt"]
    again = run(tmp_path, stages, "stages.dpo.beta=0.2")
    assert len(again) == 4
    assert made["best"].path == again["best"].path
