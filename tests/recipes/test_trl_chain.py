"""A chain whose stages TRL trained: each artifact is read by the next stage, and by plain peft."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from peft import PeftConfig, PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from align.artifacts.store import Artifact, Store
from align.run import main

RECIPE = """
defaults: [smoke]

stages:
  sft: {engine: trl}
  reward: {engine: trl, max_answers: 2}
  dpo:
    kind: dpo
    model: sft
    engine: trl
    data: {card: everyday_rankings, limit: 24}
    lr: 1e-3
    max_prompt: 128
    max_answer: 64
  eval: {policies: [sft, ppo, dpo]}
"""
FINISHED = ("sft", "reward", "dpo", "ppo", "eval")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], Path]]:
    """The command and the runs of sft -> reward -> ppo and sft -> dpo -> eval, PPO by Align."""
    folder = tmp_path_factory.mktemp("trl")
    recipes = folder / "own" / "recipe"
    recipes.mkdir(parents=True)
    (recipes / "mine.yaml").write_text(RECIPE)
    command = ["recipe=mine", f"runs={folder / 'runs'}", "--config-dir", str(recipes.parent)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGN_CACHE", str(folder / "cache"))
        assert main(command) == 0
        yield command, folder / "runs"


@pytest.fixture
def artifacts(made: tuple[list[str], Path]) -> dict[str, Artifact]:
    """Stage -> artifact."""
    return {artifact.stage: artifact for artifact in Store(made[1] / "artifacts").all()}


def test_the_chain_runs_to_its_end_and_leaves_nothing_else(
    made: tuple[list[str], Path], artifacts: dict[str, Artifact]
) -> None:
    assert set(artifacts) == set(FINISHED)
    left = {path.name for path in (made[1] / "artifacts").iterdir()}
    assert left == {artifact.path.name for artifact in artifacts.values()}
    assert [artifacts[name].manifest.kind for name in ("sft", "reward", "dpo")] == [
        "policy",
        "reward",
        "policy",
    ]
    for name in ("sft", "reward", "dpo"):
        assert artifacts[name].manifest.ingredients["engine"] == "trl"
    told = json.loads((artifacts["dpo"].path / "summary.json").read_text())["held_out"]
    assert told["rewards/margins"] > 0, "a few steps move the policy"


def test_it_is_run_once(made: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(made[0]) == 0
    assert "5 stages reused, nothing to do" in capsys.readouterr().out


def test_the_page_shows_what_trl_measured(made: tuple[list[str], Path]) -> None:
    (page,) = made[1].glob("mine-*/report.html")
    text = page.read_text()
    assert "Pairs with the better answer ahead" in text
    assert "Accuracy on training rankings" in text


def test_plain_peft_opens_what_trl_trained(artifacts: dict[str, Artifact]) -> None:
    for name, auto in (("dpo", AutoModelForCausalLM), ("reward", AutoModelForSequenceClassification)):
        folder = artifacts[name].path
        base = PeftConfig.from_pretrained(folder).base_model_name_or_path
        config = AutoConfig.from_pretrained(folder if name == "reward" else base)
        model = PeftModel.from_pretrained(auto.from_pretrained(base, config=config), folder)
        result = model.load_adapter(folder, adapter_name="again")
        assert [key for key in result.missing_keys if "again" in key] == []
        assert list(result.unexpected_keys) == []
