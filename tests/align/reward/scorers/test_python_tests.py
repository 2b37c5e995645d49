"""Programs out of answers, and the part of their tests that pass."""

from __future__ import annotations

import pytest
from answered import answered

from align.config.rewards import PythonTestsReward
from align.errors import DataError
from align.reward.scorers.python_tests import program_of, python_tests_scorer, sources_of

GOOD = "Here:\n```python\ndef f(x):\n    return x + 1\n```\n"
TESTS = ["assert f(1) == 2", "assert f(2) == 3", "assert f('a') == 'b'", "assert f(0.5) == 1.5"]


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("x = 1", "x = 1"),
        ("So:\n```python\nx = 1\n```\nand\n```py\ny = 2\n```", "x = 1\n\ny = 2\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1", "```python\nx = 1"),
    ],
)
def test_where_the_program_stands(text: str, program: str) -> None:
    assert program_of(text) == program


def test_what_tests_may_be() -> None:
    assert sources_of("assert f(1)") == ["assert f(1)"]
    for wrong in ([], [1], {"a": 1}, None):
        with pytest.raises(ValueError, match="is no list of texts"):
            sources_of(wrong)


def test_the_part_that_passes_or_all_in_the_order_of_the_answers() -> None:
    answers = [
        answered(GOOD, tests=TESTS),
        answered("I do not know", tests=TESTS),
        answered(GOOD, tests=TESTS[:2]),
    ]
    mean = python_tests_scorer(PythonTestsReward(kind="python_tests", workers=2))
    assert mean(answers).values.tolist() == [0.75, 0.0, 1.0]
    least = python_tests_scorer(PythonTestsReward(kind="python_tests", aggregate="min", workers=1))
    assert least(answers).values.tolist() == [0.0, 0.0, 1.0]


def test_a_row_without_tests_is_named() -> None:
    with pytest.raises(DataError, match="row p/0: its prompt carries no 'tests'"):
        python_tests_scorer(PythonTestsReward(kind="python_tests"))([answered(GOOD)])
