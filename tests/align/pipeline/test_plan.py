"""What a plan says of each stage, and why."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from align.artifacts.commit import commit
from align.artifacts.store import Store
from align.config.schema import Recipe
from align.errors import ConfigError, DataError, IntegrityError, Problems
from align.models import precision, sources
from align.pipeline import ingredients as ingredients_module
from align.pipeline import plan as plans
from align.pipeline.plan import Plan, build, work_of


def finish(plan: Plan, *names: str) -> None:
    """Make the artifacts of the named stages, or of all, as a run would."""
    for row in plan.rows:
        if names and row.name not in names:
            continue
        with commit(
            plan.store.path(row.output, row.key),
            kind=row.output,
            key=row.key,
            stage=row.name,
            ingredients=row.ingredients,
            info={"steps": row.steps, "seconds": 12.5},
        ) as out:
            (out / "x").write_text(row.name)


def statuses(plan: Plan) -> dict[str, str]:
    return {row.name: row.status for row in plan.rows}


def test_everything_is_new_at_first(make_recipe: Any, store: Store, fake_stage: Any) -> None:
    plan = build(make_recipe(), store)
    assert statuses(plan) == {"sft": "new", "rm": "new", "ppo": "new", "eval": "new"}
    assert [row.kind for row in plan.rows] == ["sft", "reward", "rl", "evaluate"]
    assert [row.output for row in plan.rows] == ["policy", "reward", "policy", "evaluation"]
    assert [row.inputs for row in plan.rows] == [[], ["sft"], ["sft", "rm"], ["sft", "ppo", "rm"]]
    assert [row.steps for row in plan.rows] == [7] * 4
    assert fake_stage.prepared == ["sft", "rm", "ppo", "eval"]
    assert plan.footer.startswith("4 to run, 0 reused; ")
    assert not store.root.exists(), "a plan leaves nothing behind"


def test_stages_come_after_their_inputs_whatever_their_order(make_recipe: Any, store: Store) -> None:
    recipe: Recipe = make_recipe()
    turned = recipe.model_copy(update={"stages": dict(reversed(recipe.stages.items()))})
    assert [row.name for row in build(turned, store).rows] == ["sft", "rm", "ppo", "eval"]


def test_a_finished_run_is_reused_and_nothing_is_opened(
    make_recipe: Any, store: Store, fake_stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(build(make_recipe(), store))
    fake_stage.prepared.clear()
    monkeypatch.setattr(sources, "materialise", lambda model: pytest.fail("the base model was opened"))
    plan = build(make_recipe(), store)
    assert set(statuses(plan).values()) == {"reused"}
    assert fake_stage.prepared == []
    assert [row.steps for row in plan.rows] == [7] * 4, "from the manifests"
    assert plan.footer.startswith("0 to run, 4 reused; ")


def test_a_changed_option_is_named_and_only_what_follows_runs(
    make_recipe: Any, store: Store, fake_stage: Any
) -> None:
    finish(build(make_recipe(), store))
    fake_stage.prepared.clear()
    plan = build(make_recipe(ppo={"kl_coef": 0.1}), store)
    assert statuses(plan) == {
        "sft": "reused",
        "rm": "reused",
        "ppo": "changed: stages.ppo.kl_coef 0.05 -> 0.1",
        "eval": "waits for ppo",
    }
    assert fake_stage.prepared == ["ppo", "eval"]
    assert plan["ppo"].seconds == 12.5, "the forecast is what it took before"


def test_a_change_at_the_root_is_inherited(make_recipe: Any, store: Store) -> None:
    finish(build(make_recipe(), store))
    assert statuses(build(make_recipe(sft={"lr": 1e-3, "epochs": 2}), store)) == {
        "sft": "changed: stages.sft.epochs 1 -> 2, stages.sft.lr 0.0002 -> 0.001",
        "rm": "waits for sft",
        "ppo": "waits for sft, rm",
        "eval": "waits for sft, ppo, rm",
    }


def test_log_only_options_change_nothing(make_recipe: Any, store: Store) -> None:
    finish(build(make_recipe(), store))
    plan = build(make_recipe(sft={"checkpoint_every": 99}, ppo={"save_every": 5}), store)
    assert set(statuses(plan).values()) == {"reused"}


def test_changed_data_and_code_are_named(
    make_recipe: Any, store: Store, data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(build(make_recipe(), store))
    data["rankings"] = "one-byte-more"
    said = "changed: data of stages.rm.data.0 rankings hash-of-rankings -> rankings one-byte-more"
    assert statuses(build(make_recipe(), store))["rm"] == said
    data["rankings"] = "hash-of-rankings"
    real = ingredients_module.code_of
    monkeypatch.setattr(
        ingredients_module, "code_of", lambda name: real(name) | {"align.objectives.ranking": "f" * 12}
    )
    plan = build(make_recipe(ppo=None, eval={"policies": ["sft"]}), store)
    assert statuses(plan)["rm"] == "changed: code of align/objectives/ranking"


def test_another_input_that_is_there_already(make_recipe: Any, store: Store) -> None:
    both = {"sft2": {"kind": "sft", "data": "more", "lr": 0.5}}
    finish(build(make_recipe(**both), store))
    plan = build(make_recipe(**both, rm={"model": "sft2"}), store)
    assert statuses(plan)["rm"] == "changed: input stages.rm.model"
    assert statuses(plan)["ppo"] == "waits for rm"


def test_the_nearest_earlier_artifact_is_compared(make_recipe: Any, store: Store) -> None:
    finish(build(make_recipe(sft={"lr": 0.5, "epochs": 7}), store), "sft")
    finish(build(make_recipe(sft={"lr": 0.25}), store), "sft")
    plan = build(make_recipe(), store)
    assert statuses(plan)["sft"] == "changed: stages.sft.lr 0.25 -> 0.0002"


@pytest.mark.parametrize("younger", [0.25, 0.5])
def test_of_several_that_are_as_near_the_youngest_is_compared(
    make_recipe: Any, store: Store, younger: float
) -> None:
    for lr in (0.25, 0.5):
        plan = build(make_recipe(sft={"lr": lr}), store)
        finish(plan, "sft")
        time = 2000 if lr == younger else 1000
        os.utime(store.path("policy", plan["sft"].key), (time, time))
    assert statuses(build(make_recipe(), store))["sft"] == f"changed: stages.sft.lr {younger} -> 0.0002"


def test_two_recipes_share_a_stage(make_recipe: Any, store: Store) -> None:
    finish(build(make_recipe(), store), "sft")
    only = make_recipe(
        {"recipe": "dpo"},
        rm=None,
        ppo=None,
        eval=None,
        dpo={"kind": "dpo", "data": "rankings", "model": "sft"},
    )
    assert statuses(build(only, store)) == {"sft": "reused", "dpo": "new"}


def test_what_the_base_model_cannot_give_is_refused_before_anything_runs(
    make_recipe: Any, store: Store, tmp_path: Path
) -> None:
    """Of a model that is fetched, the size is known once it is there."""
    (tmp_path / "base" / "config.json").write_text('{"num_hidden_layers": 3}')
    hub = {"kind": "hub", "id": "a/b", "revision": "0" * 40}
    recipe = make_recipe({"model": hub}, rm={"layers": 9})
    with pytest.raises(ConfigError, match=r"^stages.rm.layers: 9, and the model has 3 layers; try stages.rm"):
        build(recipe, store)
    build(make_recipe({"model": hub}, rm={"layers": 3}), store)


def test_a_half_done_stage_resumes(make_recipe: Any, store: Store) -> None:
    plan = build(make_recipe(), store)
    work_of(plan, plan["sft"]).save(4, {}, {})
    assert statuses(build(make_recipe(), store)) == {
        "sft": "resumes at step 4",
        "rm": "new",
        "ppo": "new",
        "eval": "new",
    }


def test_data_that_changed_while_a_stage_is_half_done(
    make_recipe: Any, store: Store, data: dict[str, str]
) -> None:
    plan = build(make_recipe(), store)
    work = work_of(plan, plan["sft"])
    work.save(4, {}, {})
    data["talks"] = "other"
    plan = build(make_recipe(), store)
    assert plan["sft"].status == "changed: data of stages.sft.data.0 talks hash-of-talks -> talks other"
    (note,) = plan.notes
    assert "what was half done at step 4 is not resumed" in note
    assert "talks hash-of-talks -> talks other" in note
    assert str(work.folder) in note
    assert work_of(plan, plan["sft"]).folder != work.folder


def test_a_stage_whose_saved_states_are_all_broken_is_refused(make_recipe: Any, store: Store) -> None:
    plan = build(make_recipe(), store)
    work = work_of(plan, plan["sft"])
    work.save(4, {}, {})
    (work.folder / "checkpoint-4" / "state.json").write_text("{ }")
    with pytest.raises(IntegrityError, match="none of its 1 saved states is whole"):
        build(make_recipe(), store)


@pytest.mark.parametrize("look_only", [True, False])
def test_a_broken_artifact_is_made_anew(make_recipe: Any, store: Store, look_only: bool) -> None:
    finish(build(make_recipe(), store))
    said: list[str] = []
    store.say = said.append
    path = store.path("policy", build(make_recipe(), store)["sft"].key)
    (path / "x").write_text("SFT")
    plan = build(make_recipe(), store, look_only=look_only)
    assert statuses(plan) == {"sft": "new", "rm": "reused", "ppo": "reused", "eval": "reused"}
    assert path.exists() == look_only
    assert f"{path}/x: changed" in said[0]


def test_all_errors_at_once_and_each_once(make_recipe: Any, store: Store) -> None:
    recipe = make_recipe(
        sft={"data": "bad"}, rm={"data": "nowhere", "model": "base"}, ppo={"prompts": "nowhere"}
    )
    with pytest.raises(Problems) as caught:
        build(recipe, store)
    assert [str(error) for error in caught.value.errors] == [
        "data 'nowhere': is neither a card nor a file; see align recipes",
        "bad:3: holds no answer; mend row 3",
    ]
    assert caught.value.exit_code == 2


def test_a_refused_stage_hides_nothing_of_those_that_read_it(
    make_recipe: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data that are not there or not right, the model's size, a package: each with its option."""
    (tmp_path / "base" / "config.json").write_text('{"num_hidden_layers": 3}')
    monkeypatch.setattr(plans, "EXTRA", "not_installed_anywhere")
    hub = {"kind": "hub", "id": "a/b", "revision": "0" * 40}
    recipe = make_recipe(
        {"model": hub},
        sft={"data": ["nowhere", "neither"], "optimizer": "adamw_8bit"},
        rm={"data": "bad", "layers": 9},
        ppo={"prompts": "missing"},
    )
    with pytest.raises(Problems) as caught:
        build(recipe, store)
    assert [(error.key, error.where) for error in caught.value.errors] == [
        ("stages.sft.data", "data 'nowhere'"),
        ("stages.ppo.prompts", "data 'missing'"),
        ("", "stages.rm.layers"),
        ("", "stages.sft.optimizer"),
        ("stages.rm.data", "bad:3"),
    ]
    assert not store.root.exists()


def test_leaks_are_told_beside_errors_that_are_not_of_the_data(
    make_recipe: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "EXTRA", "not_installed_anywhere")
    monkeypatch.setattr(plans, "leaks", lambda recipe: [DataError("stages.eval.prompts", "leak")])
    with pytest.raises(Problems) as caught:
        build(make_recipe(sft={"optimizer": "adamw_8bit"}), store)
    assert [error.where for error in caught.value.errors] == ["stages.sft.optimizer", "stages.eval.prompts"]


def test_a_base_model_that_cannot_be_had(
    make_recipe: Any, store: Store, monkeypatch: pytest.MonkeyPatch, fake_stage: Any
) -> None:
    def refuse(model: Any) -> Path:
        raise ConfigError("model.path", "'x' is not a folder", "give one")

    monkeypatch.setattr(sources, "materialise", refuse)
    with pytest.raises(ConfigError, match="model.path: 'x' is not a folder"):
        build(make_recipe(), store)
    assert fake_stage.prepared == []
    monkeypatch.setattr(sources, "identity", refuse)
    with pytest.raises(ConfigError, match="model.path: 'x' is not a folder"):
        build(make_recipe(), store)


def test_a_long_wait_says_what_for(make_recipe: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    said: list[str] = []
    waited = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        waited.set()

    real = sources.materialise

    def slow(model: Any) -> Path:
        waited.wait(5)
        return real(model)

    monkeypatch.setattr(plans, "PATIENCE", 0.01)
    monkeypatch.setattr(sources, "materialise", slow)
    build(make_recipe(), store, say)
    assert said[0] == "fetching and converting the base model ..."


def test_the_store_can_be_moved(make_recipe: Any, store: Store, tmp_path: Path) -> None:
    finish(build(make_recipe(), store))
    shutil.move(store.root, tmp_path / "moved")
    plan = build(make_recipe(), Store(tmp_path / "moved"))
    assert set(statuses(plan).values()) == {"reused"}


def test_a_stage_on_another_base_model_is_new_not_changed(make_recipe: Any, store: Store) -> None:
    finish(build(make_recipe(), store))
    other = build(make_recipe(top={"model": {"kind": "tiny", "seed": 1}}), store)
    assert set(statuses(other).values()) == {"new"}
    assert [row.seconds for row in other.rows] == [None] * 4, "the time of another model says nothing"


@pytest.mark.parametrize(
    ("package", "options", "line"),
    [
        (
            "EXTRA",
            {"optimizer": "adamw_8bit"},
            "stages.sft.optimizer: adamw_8bit needs not_installed_anywhere, which is not installed; "
            "pip install not_installed_anywhere, or try stages.sft.optimizer=adamw",
        ),
        (
            "TRL",
            {"engine": "trl"},
            "stages.sft.engine: trl needs not_installed_anywhere, which is not installed; "
            "pip install not_installed_anywhere, or try stages.sft.engine=align",
        ),
    ],
)
def test_a_package_that_an_option_needs_is_missing(
    make_recipe: Any, store: Store, monkeypatch: pytest.MonkeyPatch, package: str, options: Any, line: str
) -> None:
    monkeypatch.setattr(plans, package, "not_installed_anywhere")
    build(make_recipe(), store)
    with pytest.raises(ConfigError) as caught:
        build(make_recipe(sft=options), store)
    assert str(caught.value) == line
    monkeypatch.setattr(plans, package, "json")
    build(make_recipe(sft=options), store)


def test_a_base_in_4_bits_needs_its_package(
    make_recipe: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "EXTRA", "not_installed_anywhere")
    monkeypatch.setattr("align.models.adapter_configs.check_adapter", lambda base, adapter: None)
    with pytest.raises(ConfigError) as caught:
        build(make_recipe(top={"adapter": {"kind": "lora", "quantize_base": "nf4"}}), store)
    assert str(caught.value) == (
        "adapter.quantize_base: nf4 needs not_installed_anywhere, which is not installed; "
        "pip install not_installed_anywhere, or try adapter.quantize_base=null"
    )


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_trl_in_a_dtype_that_auto_stands_for_is_refused_before_anything_runs(
    make_recipe: Any, store: Store, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    recipe = make_recipe(top={"hardware": {"dtype": dtype}}, sft={"engine": "trl"})
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    with pytest.raises(ConfigError, match=r"^stages.sft.engine: trl computes in float32 here, not in "):
        build(recipe, store)
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    if dtype == "auto":
        build(recipe, store)


def test_a_function_that_a_reward_names_is_missing(make_recipe: Any, store: Store, fake_stage: Any) -> None:
    recipe = make_recipe(ppo={"reward": {"mine": {"kind": "function", "name": "polite"}}})
    with pytest.raises(ConfigError, match="^stages.ppo.reward.mine: function 'polite' stands in no file"):
        build(recipe, store)


def test_a_reward_model_inside_components_is_made_first(
    make_recipe: Any, store: Store, fake_stage: Any
) -> None:
    reward = {"helpful": {"kind": "model", "model": "rm"}, "right": {"kind": "math"}}
    plan = build(make_recipe(ppo={"reward": reward}), store)
    assert plan["ppo"].inputs == ["sft", "rm"]


def test_the_dtype_is_part_of_a_result_and_what_auto_took_is_said(
    make_recipe: Any, store: Store, monkeypatch: pytest.MonkeyPatch, fake_stage: Any
) -> None:
    plan = build(make_recipe(), store)
    finish(plan)
    assert plan.notes == []
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    auto = make_recipe(top={"hardware": {"dtype": "auto"}})
    assert set(statuses(build(auto, store)).values()) == {"reused"}, "it stands for float32 here"
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    plan = build(auto, store)
    assert statuses(plan)["sft"] == "changed: hardware.dtype float32 -> bfloat16"
    assert plan.notes[0] == (
        "computes in bfloat16, which this CPU has instructions for; what learns is kept in float32"
    )
    assert {row.stage.ctx.dtype for row in plan.rows if row.stage is not None} == {"bfloat16"}
