"""Packages that a reward needs and that are not installed."""
# ruff: noqa: E501 - tables

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from align.config.rewards import AnyReward, JsonSchemaReward, MathReward
from align.reward.needs import missing, missing_environment

REWARDS: dict[str, AnyReward] = {
    "plain": MathReward(kind="math"),
    "symbols": MathReward(kind="math", equality="symbolic"),
    "shape": JsonSchemaReward(kind="json_schema"),
}


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert [str(error) for error in missing("stages.rl.reward", REWARDS)] == [
        "stages.rl.reward.symbols: math needs math-verify, which is not installed; pip install 'align[rewards]'",
        "stages.rl.reward.shape: json_schema needs jsonschema, which is not installed; pip install 'align[rewards]'",
    ]


@pytest.mark.parametrize("rewards", ["rm", {"plain": REWARDS["plain"]}])
def test_most_need_none(monkeypatch: pytest.MonkeyPatch, rewards: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert missing("stages.rl.reward", rewards) == []


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("calculater", "did you mean calculator?"),
        ("Mine", "add rewards_from=FILE.py with class Mine: ... to the command"),
    ],
)
def test_an_environment_that_stands_nowhere(name: str, fix: str) -> None:
    (error,) = missing_environment("stages.rl.environment", name)
    said = f"environment '{name}' stands in no file that was named"
    assert str(error) == f"stages.rl.environment: {said}; {fix}"
    assert missing_environment("stages.rl.environment", "calculator") == []
    assert missing_environment("stages.rl.environment", None) == []
