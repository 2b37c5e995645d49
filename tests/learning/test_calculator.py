"""The example of a calculator: its data is right, and the recipe can be run on it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from align.data.types import Prompt
from align.rollout.calculator import Calculator, calculate
from align.run import main

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calculator_example", EXAMPLES / "calculator.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_tool_agrees_with_every_answer_and_a_shown_episode_is_worth_1(example: ModuleType) -> None:
    for problem in example.problems(200, seed=3):
        assert calculate(problem.expression) == str(problem.answer)
        call, reply, last = (turn["content"] for turn in example.talk(problem)["messages"][1:])
        environment = Calculator()
        environment.reset(Prompt("p", (), facts={"answer": str(problem.answer)}))
        assert [environment.step(call), environment.step(last)] == [reply, None]
        assert environment.reward() == 1.0


def test_no_problem_is_shown_and_the_seed_decides(example: ModuleType, tmp_path: Path) -> None:
    texts = []
    for seed in (0, 0, 1):
        example.write(tmp_path, 30, 10, seed)
        texts.append([(tmp_path / name).read_text() for name in ("problems.jsonl", "talks.jsonl")])
    assert texts[0] == texts[1] != texts[2]
    asked, shown = ([json.loads(line) for line in text.splitlines()] for text in texts[0])
    questions = {row["prompt"] for row in asked}
    assert len(questions) == 30
    assert not questions & {row["messages"][0]["content"] for row in shown}


def test_the_recipe_is_planned(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example.write(tmp_path, 30, 10, 0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    assert main([f"--config-dir={EXAMPLES}", "recipe=calculator", "model=tiny", "plan=true"]) == 0
    assert "2 to run" in capsys.readouterr().out
