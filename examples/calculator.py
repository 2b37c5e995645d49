"""Problems of arithmetic for a policy that may ask a calculator, and a few conversations that show how.

    python examples/calculator.py FOLDER [--count 400] [--shown 60] [--seed 0]
    cd FOLDER && align --config-dir=.../examples recipe=calculator

Writes `problems.jsonl`, each line a prompt with its answer, and `talks.jsonl`, conversations with two turns
of the assistant: a call, which the tool replies to, and the result.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

FORMS = (
    "What is {}?",
    "Work out {}.",
    "How much is {}?",
    "Please compute {}.",
)
OPERATORS = ("+", "-", "*")


@dataclass(frozen=True)
class Problem:
    """A question, the expression in it, and its value."""

    question: str
    expression: str
    answer: int


def problems(count: int, seed: int) -> list[Problem]:
    """So many different ones: two or three numbers up to 99, too large to be done in the head.

    Example:
        >>> [len({p.question for p in problems(50, seed)}) for seed in (0, 1)]
        [50, 50]
    """
    draw = random.Random(seed)
    found: dict[str, Problem] = {}
    while len(found) < count:
        a, b, c = (draw.randint(11, 99) for _ in range(3))
        first, second = draw.choice(OPERATORS), draw.choice(OPERATORS)
        expression, answer = f"{a}{first}{b}", _value(a, first, b)
        if draw.random() < 0.3:
            expression, answer = f"({expression}){second}{c}", _value(answer, second, c)
        question = draw.choice(FORMS).format(expression)
        found[question] = Problem(question, expression, answer)
    return list(found.values())


def _value(a: int, operator: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


def talk(problem: Problem) -> dict[str, object]:
    """The conversation that solves a problem."""
    turns = (
        ("user", problem.question),
        ("assistant", f"<<{problem.expression}>>"),
        ("user", str(problem.answer)),
        ("assistant", f"The answer is {problem.answer}."),
    )
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def write(folder: Path, count: int, shown: int, seed: int) -> None:
    """Write both files; the problems of the conversations are not among the others."""
    folder.mkdir(parents=True, exist_ok=True)
    every = problems(count + shown, seed)
    rows = {
        "problems.jsonl": [{"prompt": p.question, "answer": p.answer} for p in every[:count]],
        "talks.jsonl": [talk(p) for p in every[count:]],
    }
    for name, found in rows.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=400, help="problems")
    parser.add_argument("--shown", type=int, default=60, help="conversations")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    write(given.folder, given.count, given.shown, given.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
