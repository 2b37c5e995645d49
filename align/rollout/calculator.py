"""A calculator: the policy writes `<<12*7>>` and is told `84`; the last turn should hold the right number."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

from align.data.types import Prompt
from align.errors import DataError

CALL = re.compile(r"<<([^<>]*)(?:>>|$)")  # at the end without >>, where that is the stop string
ARITHMETIC = re.compile(r"[0-9.()+*/\s-]{1,100}")  # short, so that no number of it is large
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
ERROR = "error"
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Calculator:
    """Replies to the last call of a turn; a turn without a call is the final answer.

    The reward is 1 where the last number of the final answer is the prompt's `answer`, else 0.
    """

    def reset(self, prompt: Prompt) -> None:
        """Begin with a problem.

        Raises:
            DataError: Its row carries no number as `answer`.
        """
        self.right = last_number(str(prompt.facts.get("answer", "")))
        if self.right is None:
            raise DataError(f"row {prompt.id}", "carries no number as answer", "give each prompt an answer")
        self.found: Fraction | None = None

    def step(self, text: str) -> str | None:
        """The value of what the turn asks to be computed, or `error`; None where it asks for nothing."""
        calls = CALL.findall(text)
        self.found = None if calls else last_number(text)
        return calculate(calls[-1]) if calls else None

    def reward(self) -> float:
        """1 for the right answer."""
        return float(self.found is not None and self.found == self.right)


def calculate(expression: str) -> str:
    """The value of sums, differences, products, quotients and brackets of numbers; `error` for all else.

    Example:
        >>> calculate("12*7"), calculate("(1 - 3) / 4"), calculate("1/3"), calculate("2**9"), calculate("1/0")
        ('84', '-0.5', '0.333333', 'error', 'error')
    """
    if not ARITHMETIC.fullmatch(expression):
        return ERROR
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return ERROR
    return str(value) if value.denominator == 1 else f"{float(value):.6f}".rstrip("0").rstrip(".")


def _value(node: ast.expr) -> Fraction:
    """Exactly, so that no rounding decides over a reward.

    Raises:
        ValueError: It is no arithmetic.
    """
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("no arithmetic")


def last_number(text: str) -> Fraction | None:
    """The last number that stands in a text, 1,234 being one.

    Example:
        >>> last_number("3 and 4 make 7.0."), last_number("none")
        (Fraction(7, 1), None)
    """
    found = NUMBER.findall(text)
    return Fraction(found[-1].replace(",", "")) if found else None
