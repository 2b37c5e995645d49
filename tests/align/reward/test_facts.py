"""Prompts must carry what the components of a reward read."""

from __future__ import annotations

from typing import Any

import pytest

from align.config.rewards import (
    AnyReward,
    ConstraintsReward,
    JsonSchemaReward,
    MathReward,
    PythonTestsReward,
    RegexReward,
)
from align.data.types import Message, Prompt
from align.errors import DataError, Problems
from align.reward.facts import check_facts

REWARDS: dict[str, AnyReward] = {
    "correct": MathReward(kind="math"),
    "kept": ConstraintsReward(kind="constraints"),
    "shape": JsonSchemaReward(kind="json_schema"),
    "passes": PythonTestsReward(kind="python_tests"),
    "found": RegexReward(kind="regex", pattern="a"),
}
GOOD: dict[str, Any] = {
    "answer": "42",
    "constraints": [{"name": "json"}],
    "schema": {"type": "object"},
    "tests": ["assert f(1)"],
}


def prompt(name: str, **facts: Any) -> Prompt:
    return Prompt(
        name, (Message("user", "q"),), "p", {k: v for k, v in {**GOOD, **facts}.items() if v is not None}
    )


def test_prompts_that_carry_all() -> None:
    check_facts(REWARDS, [prompt("p/1"), prompt("p/2", answer="#### 3")], "rl")
    check_facts("rm", [Prompt("p/1", ())], "rl")
    check_facts({"found": REWARDS["found"]}, [Prompt("p/1", ())], "rl")


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"answer": None}, "rl: row p/2: carries no 'answer', which reward correct reads"),
        ({"tests": None}, "rl: row p/2: carries no 'tests', which reward passes reads"),
        (
            {"schema": {"type": "x"}},
            "rl: row p/2: its 'schema' is no JSON Schema: .*, which reward shape reads",
        ),
        ({"constraints": [{"name": "jason"}]}, r"rl: row p/2: its 'constraints' constraint 0 \('jason'\): "),
    ],
)
def test_a_fact_that_is_missing_or_no_use(facts: dict[str, Any], line: str) -> None:
    with pytest.raises(DataError, match=line):
        check_facts(REWARDS, [prompt("p/1"), prompt("p/2", **facts)], "rl")


def test_five_rows_are_shown() -> None:
    with pytest.raises(Problems) as error:
        check_facts(REWARDS, [prompt(f"p/{i}", answer=None) for i in range(9)], "rl")
    assert len(error.value.errors) == 5
