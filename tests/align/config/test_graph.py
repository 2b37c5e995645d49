"""The graph of stages: what each reads, the order, and circles."""

from __future__ import annotations

import pytest

from align.config.base import StageOptions
from align.config.graph import check_graph, inputs_of, order
from align.config.rl_options import RlOptions
from align.config.schema import Hardware, NoAdapter, Recipe, TinyModel
from align.config.stages import AnyStage, DpoOptions, EvaluateOptions, RewardOptions, SftOptions

SFT = SftOptions(kind="sft", data="talks")
REWARD = RewardOptions(kind="reward", model="sft", data="rankings")
PPO = RlOptions(kind="rl", policy="sft", reward="rm", prompts="talks")
EVAL = EvaluateOptions(kind="evaluate", policies=["base", "sft", "ppo"], reward="rm", prompts="talks")


def recipe(stages: dict[str, AnyStage]) -> Recipe:
    return Recipe(
        recipe="r",
        model=TinyModel(kind="tiny"),
        adapter=NoAdapter(kind="none"),
        hardware=Hardware(),
        stages=stages,
    )


def findings(stages: dict[str, StageOptions]) -> list[str]:
    found = check_graph(stages, {name: options.kind for name, options in stages.items()})
    return [f"{finding.key}: {finding.what}; {finding.fix}" for finding in found]


def test_inputs_are_read_off_the_types() -> None:
    assert inputs_of(SFT) == {}  # base is no stage
    assert inputs_of(REWARD) == {"model": ["sft"]}
    assert inputs_of(PPO) == {"policy": ["sft"], "reward": ["rm"]}
    assert inputs_of(EVAL) == {"policies": ["sft", "ppo"], "reward": ["rm"]}


def test_order_puts_inputs_first_and_keeps_the_recipe_s_order_otherwise() -> None:
    assert order(recipe({"eval": EVAL, "ppo": PPO, "rm": REWARD, "sft": SFT})) == ["sft", "rm", "ppo", "eval"]
    assert order(recipe({"b": SFT, "a": SFT})) == ["b", "a"]


def test_order_refuses_a_circle() -> None:
    with pytest.raises(ValueError, match="circle: a"):
        order(recipe({"a": SFT.model_copy(update={"model": "a"})}))


def test_a_right_graph_has_no_findings() -> None:
    assert findings({"sft": SFT, "rm": REWARD, "ppo": PPO, "eval": EVAL, "unused": SFT}) == []


def test_an_input_that_is_itself_wrong_is_still_there() -> None:
    """A stage with a wrong option is reported for that, and not also as missing by those that read it."""
    found = check_graph({"ppo": PPO}, {"sft": "sft", "rm": "reward", "ppo": "rl"})
    assert found == []


def test_each_circle_is_drawn_once() -> None:
    def dpo(model: str) -> DpoOptions:
        return DpoOptions(kind="dpo", model=model, data="pairs")

    stages: dict[str, StageOptions] = {
        "a": dpo("b"),
        "b": dpo("c"),
        "c": dpo("a"),
        "d": dpo("d"),
        "e": dpo("a"),
    }
    assert findings(stages) == [
        "stages.a: the stages go in a circle: a -> c -> b -> a; let one of them read base",
        "stages.d: the stages go in a circle: d -> d; let one of them read base",
    ]


def test_every_name_in_a_list_is_checked() -> None:
    eval_of = EVAL.model_copy(update={"policies": ["sft", "rm", "sftt"]})
    assert findings({"sft": SFT, "rm": REWARD, "eval": eval_of}) == [
        "stages.eval.policies: stage 'eval' (kind evaluate) wants a policy, "
        "and stage 'rm' (kind reward) makes a reward; choose sft",
        "stages.eval.policies: no stage is called 'sftt'; did you mean sft?",
    ]
