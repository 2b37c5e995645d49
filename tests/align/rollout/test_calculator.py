"""The shipped environment: sums by hand, calls, and what counts as right."""

from __future__ import annotations

from typing import Any

import pytest

from align.data.types import Prompt
from align.errors import DataError
from align.rollout.calculator import Calculator, calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12*7", "84"),
        (" 2 + 3*4 ", "14"),
        ("(2+3)*-4", "-20"),
        ("7-10", "-3"),
        ("10/4", "2.5"),
        ("0.1+0.2", "0.3"),  # not 0.30000000000000004
        ("2/3", "0.666667"),
        ("", "error"),
        ("2**9", "error"),
        ("1//2", "error"),
        ("1/0", "error"),
        ("1e9", "error"),
        ("x+1", "error"),
        ("__import__('os')", "error"),
        ("(1,2)", "error"),
        ("(" * 60 + "1", "error"),
        ("1" * 101, "error"),
    ],
)
def test_arithmetic_and_nothing_else(expression: str, value: str) -> None:
    assert calculate(expression) == value


def played(answer: Any, *turns: str) -> tuple[list[str | None], float]:
    environment = Calculator()
    environment.reset(Prompt("p", (), facts={"answer": answer}))
    return [environment.step(turn) for turn in turns], environment.reward()


@pytest.mark.parametrize(
    ("answer", "turns", "replies", "reward"),
    [
        ("84", ["I ask <<12*7>>", "It is 84."], ["84", None], 1.0),
        ("84", ["I ask <<12*7", "It is 84."], ["84", None], 1.0),  # >> was the stop string
        ("84", ["It is 48."], [None], 0.0),
        ("84", ["84 is not 48"], [None], 0.0),  # the last number counts
        ("1,234.50", ["1234.5"], [None], 1.0),
        ("-3", ["that is -3"], [None], 1.0),
        ("84", ["<<1+1>> <<12*7>>"], ["84"], 0.0),  # a call is no answer; the last call is replied to
        ("84", ["84", "<<1>>"], [None, "1"], 0.0),
        ("84", ["I do not know"], [None], 0.0),
    ],
)
def test_an_episode_by_hand(answer: str, turns: list[str], replies: list[str | None], reward: float) -> None:
    assert played(answer, *turns) == (replies, reward)


@pytest.mark.parametrize("facts", [{}, {"answer": "many"}])
def test_a_problem_without_a_number_as_answer_is_refused(facts: dict[str, str]) -> None:
    with pytest.raises(DataError, match="row p/3: carries no number as answer"):
        Calculator().reset(Prompt("p/3", (), facts=facts))
