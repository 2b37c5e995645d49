"""`keys=`, `explain=` and `recipes`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align.config import fields
from align.config.schema import Recipe
from align.config.stages import DpoOptions


def keys_in(table: str) -> list[str]:
    return [line.split()[0] for line in table.splitlines()[1:]]


def test_keys_of_a_stage_by_its_name_in_any_recipe(command: Callable[..., Any]) -> None:
    by_name, by_kind = command("keys=stages.eval").out, command("keys=evaluate").out
    assert keys_in(by_name) == [key.replace(".evaluate.", ".eval.") for key in keys_in(by_kind)]
    assert "stages.eval.sampling.temperature" in keys_in(by_name)


def test_keys_of_a_stage_of_ones_own(folder: Path, command: Callable[..., Any]) -> None:
    (folder / "my" / "recipe" / "mine.yaml").write_text("stages:\n  talk: {kind: dpo, data: x}\n")
    outcome = command("keys=stages.talk", "recipe=mine", "--config-dir", "my")
    assert keys_in(outcome.out) == [f"stages.talk.{name}" for name in DpoOptions.model_fields]


def test_keys_alone_lists_everything(command: Callable[..., Any]) -> None:
    everything = keys_in(command("keys=").out)
    assert {"seed", "runs", "model.path", "adapter.top_layers", "hardware.threads"} <= set(everything)
    assert {"stages.sft.lr", "stages.rl.kl_coef", "stages.evaluate.policies"} <= set(everything)
    assert everything == keys_in(command("keys").out)


def test_every_key_says_what_it_means() -> None:
    types = [
        Recipe,
        fields.HARDWARE,
        *fields.MODELS.values(),
        *fields.ADAPTERS.values(),
        *fields.STAGES.values(),
    ]
    silent = {row.key for options in types for row in fields.rows(options, "") if not row.text}
    assert silent <= {"kind"}


def test_a_row_says_type_range_and_default(command: Callable[..., Any]) -> None:
    row = command("keys=stages.dpo.label_smoothing").out.splitlines()[1]
    assert [cell.strip() for cell in row.split("  ") if cell.strip()] == [
        "stages.dpo.label_smoothing",
        "number",
        "at least 0 and below 0.5",
        "0.0",
        "part of labels taken as wrong",
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["keys=stages.ppo.clp"], "there is no key 'stages.ppo.clp'; did you mean stages.ppo.clip?"),
        (["keys=stages.rewrad"], "there is no stage 'rewrad'; did you mean stages.reward?"),
        (["keys=xyz"], "there is no key 'xyz'; align keys= lists all"),
        (
            ["explain=stages.ppo.clp", "recipe=smoke"],
            "stages.ppo has no key 'clp'; did you mean stages.ppo.clip?",
        ),
        (["explain="], "explain= names no key; for example explain=stages.ppo.lr recipe=rlhf"),
    ],
)
def test_unknown_names(command: Callable[..., Any], words: list[str], line: str) -> None:
    outcome = command(*words)
    assert outcome.err == f"command line: {line}\n"
    assert outcome.code == 2


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("stages.sft.lr", "stages.sft.lr = 0.25\nset by my/recipe/mine.yaml:4\n"),
        ("stages.sft.warmup", "stages.sft.warmup = 0.5\nset by command line\n"),
        ("stages.sft.epochs", "stages.sft.epochs = 1\nthe default\n"),
        ("stages.sft.data.0", "stages.sft.data.0 = 'a'\nset by my/recipe/mine.yaml:3\n"),
        ("adapter.kind", "adapter.kind = 'lora'\nset by align/recipes/adapter/lora.yaml:3\n"),
    ],
)
def test_explain(folder: Path, command: Callable[..., Any], key: str, said: str) -> None:
    text = "stages:\n  sft:\n    {kind: sft, data: [a, b],\n    lr: 0.25}\n"
    (folder / "my" / "recipe" / "mine.yaml").write_text(text)
    outcome = command(f"explain={key}", "recipe=mine", "--config-dir", "my", "stages.sft.warmup=0.5")
    assert outcome.out == said


def test_recipes_lists_ones_own_as_well(folder: Path, command: Callable[..., Any]) -> None:
    (folder / "my" / "recipe" / "mine.yaml").write_text("# what mine does\nstages: {}\n")
    rows = dict(line.split("  ", 1) for line in command("recipes", "--config-dir", "my").out.splitlines())
    assert rows["recipe=mine"].strip() == "what mine does"
    assert rows["model=tiny"].strip().startswith("a random Llama")
    assert "adapter=dora" in rows
