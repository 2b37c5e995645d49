"""The words of a plan for what has changed."""

from __future__ import annotations

import pytest

from align.pipeline.changes import describe, differing, own

OLD = {
    "lr": 9e-6,
    "epochs": 1,
    "batch_size": 8,
    "sampling.temperature": 1.0,
    "seed": 0,
    "base": "tiny:1",
    "template": "chatml 12",
    "adapter.r": 8,
    "input.reward": "a",
    "data.prompts.0": "pyrit 1a2b",
    "code.align.objectives.kl": "x",
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lr": 1e-5}, "stages.ppo.lr 9e-06 -> 1e-05"),
        ({"sampling.temperature": 0.7}, "stages.ppo.sampling.temperature 1.0 -> 0.7"),
        ({"seed": 1}, "seed 0 -> 1"),
        ({"base": "tiny:2"}, "model tiny:1 -> tiny:2"),
        ({"template": "chatml 34"}, "model.template chatml 12 -> chatml 34"),
        ({"adapter.r": 16}, "adapter.r 8 -> 16"),
        ({"data.prompts.0": "pyrit 3c4d"}, "data of stages.ppo.prompts.0 pyrit 1a2b -> pyrit 3c4d"),
        ({"code.align.objectives.kl": "y"}, "code of align/objectives/kl"),
        ({"input.reward": "b"}, "input stages.ppo.reward"),
        ({"whiten": True}, "stages.ppo.whiten (none) -> True"),
    ],
)
def test_each_sort_of_change(change: dict[str, object], said: str) -> None:
    new = {**OLD, **change}
    names = differing(OLD, new)
    assert names == list(change)
    assert describe("ppo", OLD, new, names) == said


def test_at_most_three_and_how_many_more() -> None:
    new = {
        **OLD,
        "lr": 1.0,
        "epochs": 2,
        "batch_size": 4,
        "data.prompts.0": "x",
        "code.align.objectives.kl": "y",
    }
    said = describe("ppo", OLD, new, differing(OLD, new))
    assert said == "stages.ppo.batch_size 8 -> 4, stages.ppo.epochs 1 -> 2, stages.ppo.lr 9e-06 -> 1.0, +2"


def test_options_before_data_before_code_before_inputs() -> None:
    new = {**OLD, "lr": 1.0, "data.prompts.0": "x", "code.align.objectives.kl": "y", "input.reward": "b"}
    names = differing(OLD, new)
    assert names == ["lr", "data.prompts.0", "code.align.objectives.kl", "input.reward"]
    assert own(names) == names[:3]


def test_what_is_gone_counts() -> None:
    new = {name: value for name, value in OLD.items() if name != "epochs"}
    assert describe("ppo", OLD, new, differing(OLD, new)) == "stages.ppo.epochs 1 -> (none)"
    assert differing(OLD, OLD) == []


LORA = {"kind": "sft", "adapter.kind": "lora", "adapter.r": 8, "adapter.alpha": 16, "adapter.init": "default"}


def test_a_kind_comes_first_and_what_follows_from_it_is_left_out() -> None:
    prefix = {"kind": "sft", "adapter.kind": "prefix_tuning", "adapter.virtual_tokens": 20, "lr": 1e-2}
    before = {**LORA, "lr": 1e-4}
    names = differing(before, {**prefix, "adapter.init": "zero"})
    assert names == ["adapter.kind", "adapter.init", "lr"]
    said = describe("sft", before, prefix, differing(before, prefix))
    assert said == "adapter.kind lora -> prefix_tuning, stages.sft.lr 0.0001 -> 0.01"


def test_another_kind_of_stage_leaves_the_adapter_s_options_and_the_data() -> None:
    before = {**LORA, "max_answers": 9, "data.data.0": "x 1"}
    new = {**LORA, "kind": "kto", "desirable_weight": 1.0, "adapter.r": 4, "data.data.1": "y 2"}
    assert differing(before, new) == ["kind", "adapter.r", "data.data.0", "data.data.1"]
