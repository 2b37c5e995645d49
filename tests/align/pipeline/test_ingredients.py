"""What enters a stage's key, and what must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.config.schema import Recipe
from align.errors import DataError
from align.pipeline import ingredients as module
from align.pipeline.ingredients import ingredients, key_of, run_key

KEYS = {"sft": "a" * 64, "rm": "b" * 64, "ppo": "c" * 64, "dpo": "d" * 64}


def of(recipe: Recipe, name: str, keys: dict[str, str] = KEYS) -> dict[str, Any]:
    return ingredients(recipe, name, keys)


def key(recipe: Recipe, name: str, keys: dict[str, str] = KEYS) -> str:
    return key_of(of(recipe, name, keys))


def test_what_is_in(make_recipe: Any) -> None:
    found = of(make_recipe(), "ppo")
    assert found["kind"] == "rl"
    assert found["kl_coef"] == 0.05
    assert found["sampling.temperature"] == 1.0
    assert found["seed"] == 0
    assert found["base"] == "tiny:0"
    assert found["template"].startswith("chatml")
    assert found["adapter.kind"] == "none"
    assert found["input.policy"] == "a" * 64
    assert found["input.reward"] == "b" * 64
    assert found["data.prompts.0"] == "talks hash-of-talks"
    assert found["data.prompts.1"] == "more hash-of-more"
    assert len(found["code.align.stages.rl"]) == 12
    assert not {"policy", "reward", "prompts", "save_every", "checkpoint_every"} & set(found)


def test_the_key_is_a_sha256_of_json(make_recipe: Any) -> None:
    # echo -n '{"a":1,"format":1}' | sha256sum
    assert key_of({"a": 1}) == "03f3f75c1c217edd7a23350f0f8e9f2d726ef694bc22e935c5db1754b3c8b495"
    assert len(key(make_recipe(), "sft")) == 64


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("sft", {"checkpoint_every": 9}),
        ("ppo", {"save_every": 9}),
    ],
)
def test_log_only_options_change_nothing(make_recipe: Any, stage: str, changes: dict[str, Any]) -> None:
    changed = make_recipe(**{stage: changes})
    assert key(changed, stage) == key(make_recipe(), stage)
    assert run_key(changed) == run_key(make_recipe())


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("sft", {"lr": 1e-3}),
        ("sft", {"seed": 1}),
        ("sft", {"data": "more"}),
        ("sft", {"data": {"card": "talks", "limit": 5}}),
        ("sft", {"data": {"card": "talks", "repeat": 2}}),
        ("sft", {"data": ["talks", "more"]}),
        ("ppo", {"sampling": {"temperature": 0.5}}),
        ("ppo", {"prompts": ["more", "talks"]}),
        ("ppo", {"policy": "dpo"}),
        ("eval", {"judge": "rankings"}),
        ("eval", {"policies": ["ppo", "sft"]}),
    ],
)
def test_every_other_option_changes_the_key(make_recipe: Any, stage: str, changes: dict[str, Any]) -> None:
    changed = make_recipe(**{stage: changes})
    assert key(changed, stage) != key(make_recipe(), stage)
    assert run_key(changed) != run_key(make_recipe())


def test_data_that_is_not_there_names_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = {"recipe": "r", "model": {"kind": "tiny"}, "adapter": {"kind": "none"}, "hardware": {}}
    recipe = Recipe.model_validate({**fixed, "stages": {"sft": {"kind": "sft", "data": "nowhere"}}})
    with pytest.raises(DataError, match=r"^stages.sft.data: no card is called 'nowhere'; cards: "):
        ingredients(recipe, "sft", {})


def test_the_same_data_named_in_another_way_is_the_same(make_recipe: Any) -> None:
    plain = key(make_recipe(), "sft")
    assert key(make_recipe(sft={"data": ["talks"]}), "sft") == plain
    assert key(make_recipe(sft={"data": {"card": "talks"}}), "sft") == plain
    assert key(make_recipe(sft={"data": {"path": "/somewhere/else/talks"}}), "sft") == plain


def test_no_path_enters(make_recipe: Any, tmp_path: Path) -> None:
    found = of(make_recipe(sft={"data": {"path": f"{tmp_path}/talks", "limit": 3}}), "sft")
    assert str(tmp_path) not in repr(found)
    assert found["data.data.0.limit"] == 3
    assert "data.data.0.repeat" not in found


def test_the_recipes_seed_is_the_stages_unless_it_has_its_own(make_recipe: Any) -> None:
    assert key(make_recipe({"seed": 5}), "sft") == key(make_recipe(sft={"seed": 5}), "sft")
    assert key(make_recipe({"seed": 5}, sft={"seed": 0}), "sft") == key(make_recipe(), "sft")


def test_the_content_of_data_and_inputs_and_code_changes_the_key(
    make_recipe: Any, data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key(make_recipe(), "ppo")
    assert key(make_recipe(), "ppo", {**KEYS, "rm": "e" * 64}) != before
    data["more"] = "other"
    after = key(make_recipe(), "ppo")
    assert after != before
    monkeypatch.setattr(module, "code_of", lambda name: {name: "0" * 12})
    assert key(make_recipe(), "ppo") != after


def test_an_edited_template_changes_the_key(
    make_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template is no code, so its content counts beside its name."""
    monkeypatch.setattr(module.template, "FOLDER", tmp_path)
    keys = []
    for text in ("{{ one }}", "{{ two }}", "{{ one }}"):
        (tmp_path / "chatml.jinja").write_text(text)
        keys.append(key(make_recipe(), "sft"))
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]


def test_model_template_and_adapter_change_the_key(make_recipe: Any) -> None:
    keys = {
        key(make_recipe(top), "sft")
        for top in (
            {},
            {"model": {"kind": "tiny", "seed": 1}},
            {"model": {"kind": "tiny", "template": None}},
            {"adapter": {"kind": "lora"}},
            {"adapter": {"kind": "lora", "r": 8}},
            {"adapter": {"kind": "dora"}},
        )
    }
    assert len(keys) == 6


def test_an_evaluation_trains_nothing_so_the_adapter_is_not_its_own(make_recipe: Any) -> None:
    assert key(make_recipe({"adapter": {"kind": "lora"}}), "eval") == key(make_recipe(), "eval")


def test_names_of_stages_do_not_count_but_for_lists(make_recipe: Any) -> None:
    renamed = make_recipe(other={"kind": "rl", "policy": "sft", "reward": "rm", "prompts": ["talks", "more"]})
    assert key(renamed, "other") == key(renamed, "ppo")
    same = {**KEYS, "other": KEYS["ppo"]}
    relabelled = make_recipe(other=renamed.stages["other"].model_dump(), eval={"policies": ["sft", "other"]})
    assert key(relabelled, "eval", same) != key(
        relabelled.model_copy(update={"stages": make_recipe().stages}), "eval", same
    )


def test_the_base_model_as_an_input(make_recipe: Any) -> None:
    assert of(make_recipe(), "sft")["model"] == "base"
    found = of(make_recipe(eval={"policies": ["base", "sft"]}), "eval")
    assert (found["input.policies.0"], found["input.policies.1"]) == ("base", "a" * 64)


def test_the_run_key_ignores_what_is_only_shown(make_recipe: Any, tmp_path: Path) -> None:
    plain = run_key(make_recipe())
    top = {"plan": True, "debug": True, "runs": str(tmp_path / "x"), "hardware": {"threads": 3}}
    assert run_key(make_recipe(top)) == plain
    assert run_key(make_recipe({"recipe": "other"})) != plain


COMPONENTS = {
    "helpful": {"kind": "model", "model": "rm", "weight": 0.5},
    "safe": {"kind": "ensemble", "models": ["rm", "rm2"]},
    "passes": {"kind": "python_tests"},
}


def rewarded(make_recipe: Any, **changes: dict[str, Any]) -> Recipe:
    """A recipe whose `ppo` has named components, some of them changed."""
    reward = {name: {**component, **changes.get(name, {})} for name, component in COMPONENTS.items()}
    other = {"kind": "reward", "model": "sft", "data": "rankings", "seed": 1}
    return make_recipe(rm2=other, rm3={**other, "seed": 2}, ppo={"reward": reward})


def test_components_of_a_reward_and_the_models_they_read(make_recipe: Any) -> None:
    keys = {**KEYS, "rm2": "e" * 64}
    found = of(rewarded(make_recipe), "ppo", keys)
    assert found["reward.helpful.weight"] == 0.5
    assert found["reward.safe.combine"] == "mean_minus_std"
    assert found["input.reward.helpful.model"] == "b" * 64
    assert found["input.reward.safe.models.0"] == "b" * 64
    assert found["input.reward.safe.models.1"] == "e" * 64
    assert not {"reward", "reward.helpful.model", "reward.passes.workers"} & set(found)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"helpful": {"weight": 0.25}}, False),
        ({"helpful": {"model": "rm2"}}, False),
        ({"safe": {"combine": "min"}}, False),
        ({"safe": {"models": ["rm", "rm3"]}}, False),
        ({"passes": {"seconds": 9}}, False),
        ({"passes": {"workers": 2}}, True),
    ],
)
def test_what_changes_in_a_component_changes_the_key(
    make_recipe: Any, changes: dict[str, Any], same: bool
) -> None:
    keys = {**KEYS, "rm2": "e" * 64, "rm3": "f" * 64}
    changed = key(rewarded(make_recipe, **changes), "ppo", keys)
    assert (changed == key(rewarded(make_recipe), "ppo", keys)) is same


def test_the_name_of_a_component_s_model_does_not_count(make_recipe: Any) -> None:
    keys = {**KEYS, "rm2": "e" * 64, "rm3": KEYS["rm"]}
    renamed = rewarded(make_recipe, helpful={"model": "rm3"})
    assert key(renamed, "ppo", keys) == key(rewarded(make_recipe), "ppo", keys)


def test_the_user_s_functions_count_where_one_is_used(
    make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    using = make_recipe(ppo={"reward": {"mine": {"kind": "function", "name": "f"}}})
    monkeypatch.setattr(module.functions, "digest", lambda: "0" * 12)
    before, plain = key(using, "ppo"), key(make_recipe(), "ppo")
    assert of(using, "ppo")["code.rewards_from"] == "0" * 12
    assert of(make_recipe(ppo={"environment": "Mine"}), "ppo")["code.rewards_from"] == "0" * 12
    assert "code.rewards_from" not in of(make_recipe(ppo={"environment": "calculator"}), "ppo")
    monkeypatch.setattr(module.functions, "digest", lambda: "1" * 12)
    assert key(using, "ppo") != before
    assert key(make_recipe(), "ppo") == plain
