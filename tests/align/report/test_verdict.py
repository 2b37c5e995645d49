"""The sentences, and that each follows its rule on both sides of the line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align.report.facts import RunFacts, Series, StageFacts
from align.report.verdict import cautions, comparisons, findings

N = 50


def stat(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high, "n": N}


EVALUATION: dict[str, Any] = {
    "kind": "evaluate",
    "baseline": "sft",
    "controls": ["constant refusal"],
    "sources": {
        "everyday": {
            "n": N,
            "sensitive": False,
            "rows": {
                "sft": {"reward": stat(1.0, 0.8, 1.2), "eos_rate": 0.9, "distinct_openings": 0.6},
                "ppo": {"reward": stat(2.0, 1.8, 2.2), "eos_rate": 0.9, "distinct_openings": 0.5},
                "constant refusal": {"reward": stat(-1.0, -1.1, -0.9)},
            },
            "versus": {
                "ppo": {
                    "reward_difference": stat(1.0, 0.4, 1.6),
                    "judge_difference": stat(0.3, 0.1, 0.5),
                    "win_rate": stat(0.7, 0.6, 0.8),
                    "refusal_difference": stat(0.02, -0.04, 0.08),
                },
                "constant refusal": {"reward_difference": stat(-2.0, -2.2, -1.8)},
            },
        }
    },
}
REWARD: dict[str, Any] = {
    "quality": {
        "accuracy": stat(0.8, 0.71, 0.88),
        "baselines": {
            "bag_of_words": stat(0.7, 0.6, 0.8),
            "length": {**stat(0.6, 0.5, 0.7), "rule": "shorter wins"},
        },
    }
}


def stage(kind: str, summary: dict[str, Any], **metrics: list[float]) -> StageFacts:
    series = {name: Series([float(i + 1) for i in range(len(v))], v) for name, v in metrics.items()}
    return StageFacts(kind, kind, "k", (), Path("folder"), 1.0, summary=summary, metrics=series)


def run_of(*stages: StageFacts) -> RunFacts:
    return RunFacts("r", Path("runs/r"), stages)


def evaluated(change: Callable[[dict[str, Any]], None] = lambda part: None) -> RunFacts:
    """The evaluation above with its source changed."""
    summary = copy.deepcopy(EVALUATION)
    change(summary["sources"]["everyday"])
    return run_of(stage("evaluate", summary))


def differ(name: str, value: dict[str, float]) -> Callable[[dict[str, Any]], None]:
    return lambda part: part["versus"]["ppo"].update({name: value})


@pytest.mark.parametrize(
    ("change", "sentence", "tone"),
    [
        (
            lambda part: None,
            "ppo gains +1.00 [0.40, 1.60] reward over sft on 50 held-out prompts of everyday; "
            "the second judge agrees (+0.30 [0.10, 0.50]); refusals +2.0 points [-4.0, 8.0].",
            "good",
        ),
        (
            differ("reward_difference", stat(0.5, 0.0, 1.0)),
            "ppo shows no clear change of reward against sft on 50 held-out prompts of everyday: "
            "+0.50 [0.00, 1.00]; the second judge rates it higher (+0.30 [0.10, 0.50]); "
            "refusals +2.0 points [-4.0, 8.0].",
            "plain",
        ),
        (
            differ("reward_difference", stat(-1.0, -1.6, -0.4)),
            "ppo loses reward against sft on 50 held-out prompts of everyday: -1.00 [-1.60, -0.40]; "
            "the second judge does not confirm it (+0.30 [0.10, 0.50]); refusals +2.0 points [-4.0, 8.0].",
            "bad",
        ),
        (
            differ("judge_difference", stat(-0.3, -0.5, -0.1)),
            "ppo gains +1.00 [0.40, 1.60] reward over sft on 50 held-out prompts of everyday; "
            "the second judge does not confirm it (-0.30 [-0.50, -0.10]); refusals +2.0 points [-4.0, 8.0].",
            "good",
        ),
    ],
)
def test_sentences_of_a_comparison(
    change: Callable[[dict[str, Any]], None], sentence: str, tone: str
) -> None:
    (finding,) = findings(evaluated(change))
    assert (finding.text, finding.tone) == (sentence, tone)


def test_what_was_not_measured_is_not_said() -> None:
    def bare(part: dict[str, Any]) -> None:
        part["versus"]["ppo"] = {"reward_difference": stat(1.0, 0.4, 1.6), "judge_difference": None}

    (finding,) = findings(evaluated(bare))
    assert finding.text == "ppo gains +1.00 [0.40, 1.60] reward over sft on 50 held-out prompts of everyday."
    assert findings(evaluated(lambda part: part["versus"].clear())) == []


def test_sensitive_sources_come_first_and_controls_are_marked() -> None:
    summary = copy.deepcopy(EVALUATION)
    summary["sources"]["harmful"] = {**copy.deepcopy(summary["sources"]["everyday"]), "sensitive": True}
    found = comparisons(stage("evaluate", summary))
    assert [(c.source, c.name, c.control) for c in found] == [
        ("harmful", "ppo", False),
        ("harmful", "constant refusal", True),
        ("everyday", "ppo", False),
        ("everyday", "constant refusal", True),
    ]


def control_at(mean: float) -> Callable[[dict[str, Any]], None]:
    return lambda part: part["rows"]["constant refusal"].update(reward=stat(mean, mean - 0.1, mean + 0.1))


def ppo_has(**values: float) -> Callable[[dict[str, Any]], None]:
    return lambda part: part["rows"]["ppo"].update(values)


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda part: None, None),
        (
            control_at(1.8),
            "on everyday the constant refusal scores as high as ppo: "
            "reward 1.80 [1.70, 1.90] against 2.00 [1.80, 2.20]",
        ),
        (control_at(1.79), None),
        (
            differ("judge_difference", stat(0.3, 0.0, 0.6)),
            "on everyday the second judge does not confirm the gain of ppo: +0.30 [0.00, 0.60]",
        ),
        (
            differ("refusal_difference", stat(0.11, 0.05, 0.17)),
            "ppo refuses more of everyday than sft: +11.0 points [5.0, 17.0]",
        ),
        (differ("refusal_difference", stat(0.10, 0.05, 0.15)), None),
        (ppo_has(eos_rate=0.49), "49 % of the answers of ppo on everyday end by themselves"),
        (ppo_has(eos_rate=0.5), None),
        (
            ppo_has(distinct_openings=0.29),
            "the answers of ppo on everyday begin alike: distinct openings 0.6 -> 0.29",
        ),
        (ppo_has(distinct_openings=0.3), None),
    ],
)
def test_warnings_of_a_comparison(change: Callable[[dict[str, Any]], None], warning: str | None) -> None:
    assert cautions(evaluated(change)) == ([] if warning is None else [warning])


def test_more_refusals_of_sensitive_prompts_are_no_warning() -> None:
    def sensitive(part: dict[str, Any]) -> None:
        part["sensitive"] = True
        part["versus"]["ppo"]["refusal_difference"] = stat(0.5, 0.4, 0.6)

    assert cautions(evaluated(sensitive)) == []


def test_a_reward_model_stands_beside_its_baselines() -> None:
    run = run_of(stage("reward", REWARD))
    assert [f.text for f in findings(run)] == [
        "the reward model orders held-out answers of 50 prompts as their rankings do: 80.0 % [71.0, 88.0] of "
        "the pairs; for comparison, bag of words 70.0 % [60.0, 80.0], "
        "length (shorter wins) 60.0 % [50.0, 70.0]."
    ]
    assert cautions(run) == []


def test_a_reward_model_from_ratings_is_told_beside_the_median_class() -> None:
    rated = {"error": stat(0.54, 0.4, 0.7), "usual_error": stat(0.8, 0.7, 0.9), "spearman": 0.614}
    (told,) = findings(run_of(stage("reward", {"quality": {"ratings": rated}})))
    assert told.text == (
        "the reward model puts held-out answers 0.54 [0.40, 0.70] classes of their scale off on average, "
        "the median class 0.80 [0.70, 0.90]. Rank correlation 0.61."
    )


def test_a_process_reward_model_is_told_beside_always_saying_the_same() -> None:
    steps = {"accuracy": stat(0.8, 0.71, 0.88), "usual_accuracy": stat(0.6, 0.5, 0.7)}
    (told,) = findings(run_of(stage("process_reward", {"quality": {"steps": steps}})))
    assert told.text == (
        "the reward model process_reward judges 80.0 % [71.0, 88.0] of the steps of held-out answers as they "
        "were labelled; the more frequent label is right in 60.0 % [50.0, 70.0]."
    )


def test_a_reward_model_that_does_not_beat_a_baseline_is_said_so() -> None:
    summary = copy.deepcopy(REWARD)
    summary["quality"]["baselines"]["bag_of_words"] = stat(0.71, 0.6, 0.8)
    assert cautions(run_of(stage("reward", summary))) == [
        "the reward model does not clearly beat bag of words (71.0 % [60.0, 80.0]): "
        "accuracy 80.0 % [71.0, 88.0]"
    ]


def test_held_out_loss() -> None:
    falls = {"before": {"nll": 2.634}, "after": {"nll": 2.297, "n": 41.0}}
    (finding,) = findings(run_of(stage("sft", falls)))
    assert finding.text == "sft: held-out loss (41 conversations) falls from 2.63 to 2.30 nats per token."
    rises = {"before": {"nll": 2.0}, "after": {"nll": 2.5}}
    (finding,) = findings(run_of(stage("sft", rises)))
    assert (finding.text, finding.tone) == (
        "sft: held-out loss rises from 2.00 to 2.50 nats per token.",
        "bad",
    )


def test_preferences() -> None:
    summary = {"held_out": {"rewards/accuracies": 0.625, "rewards/margins": 0.31, "n": 16}}
    (finding,) = findings(run_of(stage("dpo", summary)))
    assert (
        finding.text == "dpo prefers the better answer in 62.5 % of 16 held-out pairs, by a margin of 0.31."
    )
    (finding,) = findings(run_of(stage("dpo", {**summary, "reads": "rankings"})))
    assert "in 62.5 % of the pairs of 16 held-out rankings, by" in finding.text
    assert findings(run_of(stage("dpo", {"held_out": {"n": 0}}))) == []
    for before, tone in ((-0.2, "plain"), (0.4, "bad")):
        (finding,) = findings(run_of(stage("dpo", {**summary, "before": {"rewards/margins": before}})))
        assert finding.text.endswith(f"by a margin of 0.31 (before training {before}).")
        assert finding.tone == tone


def test_labelled_answers() -> None:
    summary = {"held_out": {"rewards/margins": 0.31, "kl": 1.5, "n": 16}}
    (finding,) = findings(run_of(stage("kto", summary)))
    told = "kto rewards the desirable of 16 held-out answers 0.31 more than the undesirable"
    assert (finding.text, finding.tone) == (f"{told}, at a KL of 1.5 nats.", "plain")
    (finding,) = findings(run_of(stage("kto", {"held_out": {"rewards/margins": -0.2, "n": 16}})))
    told = "kto rewards the desirable of 16 held-out answers 0.2 less than the undesirable."
    assert (finding.text, finding.tone) == (told, "bad")
    assert findings(run_of(stage("kto", {"held_out": {"n": 16}}))) == []


def test_kl_that_passes_the_limit_is_named_once() -> None:
    run = run_of(stage("ppo", {}, **{"objective/kl": [0.0, 8.0, 8.1, 9.0]}))
    assert cautions(run) == ["ppo: KL passed 8 nats an answer at iteration 3"]
    assert cautions(run_of(stage("ppo", {}, **{"objective/kl": [0.0, 8.0]}))) == []


def test_a_kind_that_is_not_known_yet_is_told_by_what_it_measured() -> None:
    (told,) = findings(run_of(stage("later", {"before": {"nll": 2.0}, "after": {"nll": 1.5}})))
    assert told.text == "later: held-out loss falls from 2.00 to 1.50 nats per token."
    assert findings(run_of(stage("later", {"before": {"reward": 2.0}}))) == []
    run = run_of(stage("later", {}, **{"objective/kl": [9.0]}))
    assert cautions(run) == ["later: KL passed 8 nats an answer at iteration 1"]
