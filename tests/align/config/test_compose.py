"""What Hydra and pydantic make of recipes: the shipped ones, one's own, sweeps, and who wins over whom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from align.config import command_line, fields
from align.config.base import DataRef
from align.config.compose import Composed, Composer, RecipeErrors, card_folders
from align.config.rl_options import RlOptions
from align.config.schema import PathModel, TinyModel
from align.config.source import RECIPES
from align.config.stages import SftOptions

SHIPPED = sorted(path.stem for path in (RECIPES / "recipe").glob("*.yaml"))
TINY = (
    "defaults: [override /model: tiny]\nstages:\n  sft: {kind: sft, data: talks, lr: 0.25, max_answer: 64}\n"
)


def compose(*arguments: str) -> Composed:
    line = command_line.parse(arguments)
    return Composer(line).compose(line.overrides)


def own(folder: Path, text: str, name: str = "mine", group: str = "recipe") -> None:
    path = folder / "my" / group / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe(name: str) -> None:
    assert compose(f"recipe={name}").recipe.recipe == name
    text = (RECIPES / "recipe" / f"{name}.yaml").read_text()
    assert len(text.splitlines()) <= 40
    assert text.startswith("# yaml-language-server: $schema=../schema.json\n")


def test_the_recipes_that_users_are_promised() -> None:
    assert {"rlhf", "sft", "reward", "dpo", "smoke"} <= set(SHIPPED)
    assert list(compose("recipe=rlhf").recipe.stages) == ["sft", "reward", "ppo", "eval"]
    assert list(compose("recipe=smoke").recipe.stages) == ["sft", "reward", "ppo", "eval"]


def test_recipes_that_share_a_stage_share_all_its_options() -> None:
    rlhf = compose("recipe=rlhf").recipe
    for name in ("sft", "reward", "dpo"):
        other = compose(f"recipe={name}").recipe
        assert other.stages["sft"] == rlhf.stages["sft"]
        assert other.adapter == rlhf.adapter
    assert compose("recipe=reward").recipe.stages["reward"] == rlhf.stages["reward"]


@pytest.mark.parametrize("adapter", ["none", "lora", "dora", "ia3", "prompt_tuning"])
def test_an_adapter_on_the_command_line_replaces_the_one_of_the_recipe(adapter: str) -> None:
    chosen = compose("recipe=rlhf", f"adapter={adapter}").recipe.adapter
    assert chosen.kind == adapter
    assert getattr(chosen, "top_layers", None) is None  # rlhf's own adapter has 15


def test_defaults_of_a_stage_come_from_its_type(try_recipe: Callable[..., Any]) -> None:
    printed = yaml.safe_load(try_recipe(TINY).out)
    assert printed["stages"]["sft"]["lr"] == 0.25
    assert printed["stages"]["sft"]["batch_size"] == SftOptions.model_fields["batch_size"].default
    assert set(printed["stages"]["sft"]) == set(SftOptions.model_fields)
    assert printed["model"] == TinyModel(kind="tiny").model_dump()


def test_every_known_key_is_overridden_without_a_plus(folder: Path) -> None:
    own(folder, TINY)
    arguments = [
        "recipe=mine",
        "--config-dir",
        "my",
        "stages.sft.warmup=0.5",
        "stages.sft.data={card: a, limit: 3}",
    ]
    stage = compose(*arguments, "seed=7", "model.hidden=64", "hardware.threads=1", "plan=true")
    options = stage.recipe.stages["sft"]
    assert isinstance(options, SftOptions)
    assert options.warmup == 0.5
    assert stage.recipe.seed == 7
    assert stage.recipe.plan is True
    assert stage.recipe.model.model_dump()["hidden"] == 64
    assert stage.recipe.hardware.threads == 1


def test_the_command_line_beats_the_recipe_and_the_recipe_the_group(folder: Path) -> None:
    own(folder, "seed: 5\nmodel: {hidden: 64}\nadapter: {r: 4}\n" + TINY)
    mine = ["recipe=mine", "--config-dir", "my"]
    recipe = compose(*mine).recipe
    assert (recipe.seed, recipe.model.model_dump()["hidden"]) == (5, 64)
    assert recipe.adapter.model_dump()["r"] == 4
    recipe = compose(*mine, "seed=6", "model.hidden=128", "adapter.r=2").recipe
    assert (recipe.seed, recipe.model.model_dump()["hidden"]) == (6, 128)
    assert recipe.adapter.model_dump()["r"] == 2


def test_a_model_spelled_out_in_a_recipe_is_a_choice_of_its_group(folder: Path) -> None:
    own(folder, "model: {kind: path, path: /some/where}\nstages:\n  sft: {kind: sft, data: x}\n")
    assert compose("recipe=mine", "--config-dir", "my").recipe.model == PathModel(
        kind="path", path="/some/where"
    )
    assert isinstance(compose("recipe=mine", "--config-dir", "my", "model=tiny").recipe.model, TinyModel)


def test_path_and_hub_models_from_the_command_line() -> None:
    model = compose("recipe=sft", "adapter=lora", "model=path", "model.path=/a b/c").recipe.model
    assert model == PathModel(kind="path", path="/a b/c")
    hub = compose("recipe=sft", "model=hub", "model.id=a/b", f"model.revision={'0' * 40}").recipe.model
    assert hub.model_dump()["revision"] == "0" * 40
    with pytest.raises(
        RecipeErrors, match=r"model.revision: 'main' has the wrong form; give text \(full commit hash\)"
    ):
        compose("recipe=sft", "model=hub", "model.id=a/b", "model.revision=main")


@pytest.mark.parametrize("preset", ["qwen3_0_6b", "llama3_2_1b", "llama3_1_8b"])
def test_presets_are_pinned(preset: str) -> None:
    assert compose("recipe=sft", f"model={preset}").recipe.model.kind == "hub"


def test_a_recipe_that_builds_on_another(folder: Path) -> None:
    own(folder, "defaults: [smoke]\nstages:\n  ppo: {iterations: 3}\n")
    built, smoke = compose("recipe=mine", "--config-dir", "my").recipe, compose("recipe=smoke").recipe
    ppo = smoke.stages["ppo"]
    assert isinstance(ppo, RlOptions)
    assert built.stages["ppo"] == ppo.model_copy(update={"iterations": 3})
    assert built.stages["sft"] == smoke.stages["sft"]
    assert built.recipe == "mine"


@pytest.mark.parametrize(
    ("typed", "want"),
    [
        ("{card: everyday_prompts, limit: 20}", [DataRef(card="everyday_prompts", limit=20)]),
        ("[{card: everyday_prompts}, mine]", [DataRef(card="everyday_prompts"), "mine"]),
        ("mine", "mine"),
    ],
)
def test_data_may_be_typed_in_any_form_over_any_form(typed: str, want: Any) -> None:
    """In this recipe a mapping stands there."""
    ppo = compose("recipe=smoke", f"stages.ppo.prompts={typed}").recipe.stages["ppo"]
    assert isinstance(ppo, RlOptions)
    assert ppo.prompts == want


def test_recipes_that_build_on_one_another_are_refused(folder: Path) -> None:
    own(folder, "defaults: [mine]\n")
    with pytest.raises(RecipeErrors, match="its defaults lead back to itself; let no recipe build on one"):
        compose("recipe=mine", "--config-dir", "my")


def test_a_stage_is_added_from_its_kind(folder: Path) -> None:
    own(folder, TINY)
    arguments = ["recipe=mine", "--config-dir", "my", "+stage@stages.more=dpo"]
    more = compose(*arguments, "stages.more.model=sft", "stages.more.data=pairs", "stages.more.max_answer=64")
    assert more.recipe.stages["more"].kind == "dpo"
    with pytest.raises(RecipeErrors, match="command line: stages.more.data: is missing"):
        compose(*arguments)


def test_a_stage_is_taken_out() -> None:
    assert list(compose("recipe=smoke", "~stages.eval").recipe.stages) == ["sft", "reward", "ppo"]


def test_another_key_is_copied(folder: Path) -> None:
    own(folder, TINY.replace("lr: 0.25", "batch_size: '${model.heads}'"))
    assert compose("recipe=mine", "--config-dir", "my").recipe.stages["sft"].model_dump()["batch_size"] == 4


def test_printed_recipe_is_fit_to_be_saved(folder: Path, command: Callable[..., Any]) -> None:
    printed = command(
        "recipe=rlhf",
        "stages.ppo.clip=0.3",
        "model=tiny",
        "adapter=dora",
        "stages.reward.layers=2",
        "--cfg",
        "job",
    )
    own(folder, printed.out)
    again = command("recipe=mine", "--config-dir", "my", "--cfg", "job")
    assert again.code == 0
    first, second = yaml.safe_load(printed.out), yaml.safe_load(again.out)
    assert (first.pop("recipe"), second.pop("recipe")) == ("rlhf", "mine")
    assert first == second


def test_merge_keys_and_anchors(folder: Path) -> None:
    own(folder, "stages:\n  a: &a {kind: sft, data: x, lr: 0.5}\n  b: {<<: *a, model: a}\n")
    stages = compose("recipe=mine", "--config-dir", "my").recipe.stages
    assert stages["b"] == stages["a"].model_copy(update={"model": "a"})


def test_folder_of_ones_own(folder: Path) -> None:
    own(folder, TINY.replace("tiny", "wide"))
    own(folder, "kind: tiny\nhidden: 256\n", "wide", "model")
    (folder / "my" / "data_cards").mkdir()
    line = command_line.parse(["recipe=mine", "--config-dir", "my"])
    assert Composer(line).compose(line.overrides).recipe.model == TinyModel(kind="tiny", hidden=256)
    assert card_folders(line) == [folder / "my" / "data_cards"]
    assert card_folders(command_line.parse(["recipe=smoke"])) == []


def test_sweep_checks_every_combination() -> None:
    line = command_line.parse(
        ["recipe=smoke", "-m", "seed=1,2", "stages.ppo.lr=1e-3,3", "stages.sft.lr=1e-3"]
    )
    with pytest.raises(RecipeErrors) as caught:
        Composer(line).compose_all()
    assert [str(error) for error in caught.value.errors] == [
        "command line: stages.ppo.lr: 3 is out of range; give a number above 0 and below 1"
    ]
    line = command_line.parse(["recipe=smoke", "-m", "seed=range(1,3)", "adapter=lora,none"])
    composed = Composer(line).compose_all()
    assert [(one.recipe.seed, one.recipe.adapter.kind) for one in composed] == [
        (1, "lora"), (1, "none"), (2, "lora"), (2, "none")
    ]  # fmt: skip


def test_origins(folder: Path) -> None:
    own(folder, TINY)
    composed = compose("recipe=mine", "--config-dir", "my", "stages.sft.warmup=0.5", "model.heads=2")
    at = composed.origins
    assert at("stages.sft.lr") == "my/recipe/mine.yaml:3"
    assert at("stages.sft.warmup") == "command line"
    assert at("model.heads") == "command line"
    assert at("stages.sft.epochs") == "default"
    assert at("model.kind") == "align/recipes/model/tiny.yaml:3"
    assert at.nearest("stages.sft.epochs") == "my/recipe/mine.yaml:3"


def test_defaults_are_written_once() -> None:
    """Files of the groups choose; they repeat no default of the types."""
    for group, kinds in fields.TAGGED.items():
        for path in (RECIPES / group).glob("*.yaml"):
            data = yaml.safe_load(path.read_text())
            plain = fields.defaults(kinds[data["kind"]], leave_out=["kind"])
            assert not {name for name, value in data.items() if plain.get(name) == value != fields.REQUIRED}
