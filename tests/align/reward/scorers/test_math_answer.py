"""Final answers: where they stand, and when two are equal."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from answered import answered

from align.config.rewards import MathReward
from align.reward.scorers.math_answer import (
    final_answer,
    math_scorer,
    number,
    plainly_equal,
    right_answer,
    symbolically_equal,
)


@pytest.mark.parametrize(
    ("text", "answer_format", "found"),
    [
        ("6 x 7 is\n#### 42", "hash", "42"),
        ("#### 41\nno,\n####  42 apples\nsee?", "hash", "42 apples"),
        ("the answer is 42", "hash", None),
        ("####\n42", "hash", None),
        (r"thus \boxed{42}.", "boxed", "42"),
        (r"\boxed{1} or rather \boxed{\frac{1}{2}}", "boxed", r"\frac{1}{2}"),
        (r"\boxed{42", "boxed", None),
        (r"\boxed{}", "boxed", None),
        ("3 cats and 4 dogs make 7.", "last_number", "7"),
        ("it costs $1,250.50, I think", "last_number", "1,250.50"),
        ("5-3 is not -2", "last_number", "-2"),
        ("what is 5-3", "last_number", "3"),
        ("a half is 1/2", "last_number", "1/2"),
        ("none", "last_number", None),
        (r"1 and \boxed{2} and 3" + "\n#### 4", "auto", "4"),
        (r"1 and \boxed{2} and 3", "auto", "2"),
        ("1 and 3", "auto", "3"),
        ("", "auto", None),
    ],
)
def test_where_the_answer_stands(text: str, answer_format: Any, found: str | None) -> None:
    assert final_answer(text, answer_format) == found


def test_the_right_answer_may_be_a_whole_solution() -> None:
    assert right_answer("42 ") == "42"
    assert right_answer("so it is 3 + 4\n#### 7") == "7"
    assert right_answer(r"so \boxed{x^2}") == "x^2"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", Fraction(42)),
        ("-1,200.50", Fraction(-12005, 10)),
        ("- 3", Fraction(-3)),
        ("-$3", Fraction(-3)),
        ("$-3", Fraction(-3)),
        (r"\$3.00", Fraction(3)),
        ("$7$", Fraction(7)),
        ("50%", Fraction(50)),
        (r"50\%", Fraction(50)),
        ("7 apples.", Fraction(7)),
        (".5", Fraction(1, 2)),
        ("3 / 4", Fraction(3, 4)),
        (r"-\frac{1}{2}", Fraction(-1, 2)),
        (r"\dfrac{ 10 }{4}", Fraction(5, 2)),
        (r"1\,000", Fraction(1000)),
        ("1/0", None),
        ("2x", None),
        ("7 or 8", None),
        ("--3", None),
        ("seven", None),
        ("9" * 5000, None),
    ],
)
def test_numbers_are_exact(text: str, value: Fraction | None) -> None:
    assert number(text) == value


def test_plain_equality() -> None:
    assert plainly_equal("0.30", "3/10")
    assert not plainly_equal("0.3", "1/3")
    assert plainly_equal("Tuesday.", " tuesday")
    assert plainly_equal(r"\text{even}", "even")
    assert not plainly_equal("x+1", "1+x")
    assert not plainly_equal("42", "forty-two")


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({}, [1.0, 1.0, 1.0, 0.0, 0.0]),
        ({"answer_format": "hash"}, [1.0, 0.0, 0.0, 0.0, 0.0]),
        ({"answer_format": "boxed"}, [0.0, 1.0, 0.0, 0.0, 0.0]),
    ],
)
def test_scores(options: dict[str, Any], scores: list[float]) -> None:
    texts = ["#### 1,000", r"\boxed{1000.0}", "a thousand is 1000", "#### 1001", ""]
    scorer = math_scorer(MathReward(kind="math", **options))
    assert scorer([answered(text, answer="1000") for text in texts]).values.tolist() == scores


@pytest.mark.parametrize(
    ("given", "wanted", "same"),
    [
        ("x+1", "1+x", True),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("x+1", "x+2", False),
        ("2", "3", False),
        ("2", "2.0", True),
        (r"\{1, 2\}", r"\{2, 1\}", True),
        ("x = 4", "4", True),
        (r"\frac{", "1", False),
    ],
)
def test_symbolic_equality_is_that_of_math_verify(given: str, wanted: str, same: bool) -> None:
    """Expected values by hand; math-verify itself must be of the same opinion."""
    math_verify = pytest.importorskip("math_verify")
    theirs = math_verify.verify(math_verify.parse(f"${wanted}$"), math_verify.parse(f"${given}$"))
    assert symbolically_equal(given, wanted) is same is theirs
