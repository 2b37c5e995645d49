"""Named components of a reward in a recipe: what is taken, what is refused and in which words."""
# ruff: noqa: E501 - tables

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from align.config.fields import REWARDS
from align.config.graph import check_graph, inputs_of
from align.config.reward_contradictions import reward_alone
from align.config.rewards import (
    AnyReward,
    EnsembleReward,
    ModelReward,
    RegexReward,
    components_of,
    models_of,
)
from align.config.rl_options import RlOptions

RECIPE = """\
recipe: mine
stages:
  rm: {kind: reward, data: r}
  r2: {kind: reward, data: r, seed: 1}
  rl:
    kind: rl
    policy: base
    prompts: p
    reward:
"""
HELPFUL = ModelReward(kind="model", model="rm")
SAFE = EnsembleReward(kind="ensemble", models=["rm", "r2"])
FOUND = RegexReward(kind="regex", pattern="a")


def ppo(**reward: Any) -> RlOptions:
    return RlOptions.model_validate({"kind": "rl", "policy": "sft", "prompts": "p", "reward": reward})


# --- what is meant --------------------------------------------------------------------------------------


def test_a_name_is_short_for_a_model_of_weight_1() -> None:
    assert components_of("rm") == {"rm": ModelReward(kind="model", model="rm", weight=1.0)}


@pytest.mark.parametrize(
    ("rewards", "models"),
    [
        ("rm", ["rm"]),
        ({"h": HELPFUL, "f": FOUND}, ["rm"]),
        ({"h": HELPFUL, "s": SAFE}, ["rm", "r2"]),
        ({"f": FOUND}, []),
    ],
)
def test_the_reward_models_among_components(rewards: Any, models: list[str]) -> None:
    assert models_of(rewards) == models


def test_stages_named_inside_components_are_inputs() -> None:
    options = ppo(
        h={"kind": "model", "model": "rm"}, s={"kind": "ensemble", "models": ["rm", "r2"]}, f={"kind": "math"}
    )
    assert inputs_of(options) == {
        "policy": ["sft"],
        "reward.h.model": ["rm"],
        "reward.s.models": ["rm", "r2"],
    }


def test_the_graph_is_checked_inside_components() -> None:
    options = ppo(h={"kind": "model", "model": "sft"}, s={"kind": "ensemble", "models": ["rm", "r3"]})
    kinds = {"sft": "sft", "rm": "reward", "r2": "reward", "rl": "rl"}
    assert [f"{found.key}: {found.what}" for found in check_graph({"rl": options}, kinds)] == [
        "stages.rl.reward.h.model: stage 'rl' (kind rl) wants a reward, and stage 'sft' (kind sft) makes a policy",
        "stages.rl.reward.s.models: no stage is called 'r3'",
    ]


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("x: {kind: mat}", "stages.rl.reward.x.kind: 'mat' is not a kind; did you mean math?"),
        ("x: {kind: zzz}", "stages.rl.reward.x.kind: 'zzz' is not a kind; choose model, ensemble, math"),
        ("x: {weight: 1.0}", "stages.rl.reward.x.kind: is missing; choose model, ensemble, math"),
        (
            "x: {kind: math, wieght: 2.0}",
            "stages.rl.reward.x.wieght: no such key; did you mean stages.rl.reward.x.weight?",
        ),
        ("x: {kind: math, weight: much}", "stages.rl.reward.x.weight: 'much' is not a number; give a number"),
        ("x: {kind: math, weight: .nan}", "stages.rl.reward.x.weight: nan is not a finite number"),
        ("x: {kind: math, answer_format: box}", "stages.rl.reward.x.answer_format: 'box' is not a choice; "),
        ("x: {kind: regex, pattern: '('}", "stages.rl.reward.x.pattern: '(' is no regular expression: "),
        ("x: {kind: regex}", "stages.rl.reward.x.pattern: is missing; give text (regular expression"),
        (
            "x: {kind: model, model: base}",
            "stages.rl.reward.x.model: stage 'rl' wants a reward, and 'base' is a policy; choose rm, r2",
        ),
        (
            "x: {kind: ensemble, models: [rm]}",
            "stages.rl.reward.x.models: ['rm'] is out of range; give a list of texts with at least 2",
        ),
        (
            "x: {kind: ensemble, models: [rm, rm]}",
            "stages.rl.reward.x.models: 'rm' stands twice; name each model once",
        ),
        (
            "x: {kind: ensemble, models: [rm, r2], combine: min, std_weight: 2.0}",
            "stages.rl.reward.x.std_weight: 2 is not read by stages.rl.reward.x.combine=min; "
            "try stages.rl.reward.x.combine=mean_minus_std, or stages.rl.reward.x.std_weight=1",
        ),
        (
            "x: {kind: math, weight: 0}",
            "stages.rl.reward.x.weight: 0, as all weights are, leaves nothing to learn from; try stages.rl.reward.x.weight=1",
        ),
        (
            "x: {kind: environment}",
            "stages.rl.reward.x.kind: environment is earned in episodes, and kind rl without an environment "
            "plays none; try stages.rl.environment=calculator, or another kind",
        ),
        (
            "x: {kind: http, url: 'http://example.org/'}",
            "would send texts and key unencrypted; give https://",
        ),
        (
            "x: {kind: http, url: 'https://me:hush@example.org/'}",
            "stages.rl.reward.x.url: holds a password; set ALIGN_REWARD_KEY",
        ),
        (
            "x: {kind: http, url: 'ftp://example.org/'}",
            "stages.rl.reward.x.url: 'ftp://example.org/' is no address; give https://HOST/PATH",
        ),
        (
            "x: {kind: http, url: 'https://example.org/', api_key: k}",
            "stages.rl.reward.x.api_key: looks like a secret",
        ),
        ("x: {kind: function, name: a.b}", "stages.rl.reward.x.name: 'a.b' has the wrong form"),
        ("x: {kind: function, name: f, rewards_from: f.py}", "stages.rl.reward.x.rewards_from: no such key"),
        ("X-1: {kind: math}", "stages.rl.reward.X-1"),
    ],
)
def test_wrong_components(lines: str, said: str, try_recipe: Callable[..., Any]) -> None:
    outcome = try_recipe(RECIPE + f"      {lines}\n")
    assert outcome.code == 2
    assert len(outcome.errors) == 1, outcome.err
    assert said in outcome.errors[0]
    assert outcome.errors[0].startswith("my/recipe/mine.yaml:")


def test_no_component_is_no_reward(try_recipe: Callable[..., Any]) -> None:
    outcome = try_recipe(RECIPE.rstrip() + " {}\n")
    assert outcome.code == 2
    assert "stages.rl.reward" in outcome.errors[0]


def test_a_recipe_never_names_a_file_of_functions(try_recipe: Callable[..., Any]) -> None:
    outcome = try_recipe(RECIPE + "      x: {kind: math}\nrewards_from: f.py\n")
    assert outcome.code == 2
    assert "rewards_from: no such key" in outcome.err


def test_reward_alone_has_nothing_against_a_name_or_good_components() -> None:
    good: dict[str, AnyReward] = {"s": SAFE, "logged": FOUND.model_copy(update={"weight": 0.0})}
    assert reward_alone("stages.rl.reward", "rm") == []
    assert reward_alone("stages.rl.reward", good) == []


# --- what is taken --------------------------------------------------------------------------------------


def test_components_are_composed_and_changed_on_the_command_line(try_recipe: Callable[..., Any]) -> None:
    content = (
        RECIPE
        + "      found: {kind: regex, pattern: '(?m)^#### \\S+$'}\n      helpful: {kind: model, model: rm}\n"
    )
    outcome = try_recipe(
        content,
        "stages.rl.reward.found.weight=0.5",
        "stages.rl.reward.short={kind: length_penalty, allowed: 9, window: 3}",
        "~stages.rl.reward.helpful",
    )
    assert outcome.code == 0, outcome.err
    assert yaml.safe_load(outcome.out)["stages"]["rl"]["reward"] == {
        "found": {"kind": "regex", "pattern": "(?m)^#### \\S+$", "weight": 0.5},
        "short": {"kind": "length_penalty", "allowed": 9, "window": 3},
    }


def test_every_kind_and_key_is_listed(command: Callable[..., Any]) -> None:
    listed = command("keys=rl.reward").out
    for kind in REWARDS:
        assert kind in listed
    lines = {line.split()[0]: line for line in listed.splitlines()}
    assert "[ensemble] of the models' scores" in lines["stages.rl.reward.NAME.combine"]
    assert "at least 1 and at most 100" in lines["stages.rl.reward.NAME.n"]
    assert list(lines).count("stages.rl.reward.NAME.weight") == 1


def test_an_environment_is_earned_in_episodes_alone(try_recipe: Callable[..., Any]) -> None:
    lines = RECIPE + "      x: {kind: environment}\n    environment: calculator\n    max_turns: 3\n"
    more = "  {kind}: {{kind: {kind}, prompts: p, reward: {{x: {{kind: environment}}}}{rest}}}\n"
    said = try_recipe(lines + more.format(kind="sample", rest="")).err
    said += try_recipe(lines + more.format(kind="evaluate", rest=", policies: [base]")).err
    assert "stages.rl" not in said
    for kind in ("sample", "evaluate"):
        assert (
            f"stages.{kind}.reward.x.kind: environment is earned in episodes, and kind {kind} plays none"
            in said
        )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "    max_turns: 3\n",
            "stages.rl.max_turns: 3 is not read by stages.rl.environment=null; "
            "try stages.rl.environment=calculator, or stages.rl.max_turns=4",
        ),
        ("    environment: os.path\n", "stages.rl.environment: 'os.path'"),
    ],
)
def test_options_of_episodes_that_are_not_right(
    try_recipe: Callable[..., Any], lines: str, said: str
) -> None:
    assert said in try_recipe(RECIPE + "      x: {kind: math}\n" + lines).err
