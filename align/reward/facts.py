"""Whether prompts carry what the components of a reward read beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from align.config.rewards import (
    AnyReward,
    Component,
    ConstraintsReward,
    JsonSchemaReward,
    MathReward,
    PythonTestsReward,
    components_of,
)
from align.data.types import Prompt
from align.errors import DataError, raise_all
from align.reward.scorers import constraint_forms, constraints
from align.reward.scorers.json_schema import validator_of
from align.reward.scorers.math_answer import right_answer
from align.reward.scorers.python_tests import sources_of

SHOWN = 5  # rows whose errors are shown at once


def _answer(fact: Any) -> None:
    if not right_answer(fact):
        raise ValueError("states no result")


def _constraints(fact: Any) -> None:
    if any(isinstance(one, constraint_forms.Language) for one in constraints.parse(fact)):
        constraint_forms.language_of("")  # is langdetect there?


READ: dict[type[Component], tuple[str, Callable[[Any], Any]]] = {
    MathReward: ("answer", _answer),
    ConstraintsReward: ("constraints", _constraints),
    JsonSchemaReward: ("schema", validator_of),
    PythonTestsReward: ("tests", sources_of),
}


def check_facts(rewards: str | Mapping[str, AnyReward], prompts: Iterable[Prompt], where: str) -> None:
    """Refuse prompts that lack what a component reads, before anything is sampled.

    Args:
        rewards: The name of a stage, or named components.
        prompts: All that may be asked.
        where: Name of the stage, for messages.

    Raises:
        DataError: A fact is missing or is not what the component reads; up to five rows are shown.
        ConfigError: A package is missing.
    """
    wanted = {name: READ.get(type(component)) for name, component in components_of(rewards).items()}
    errors: list[DataError] = []
    for prompt in prompts:
        for name, read in wanted.items():
            problem = _problem(prompt, *read) if read is not None else ""
            if problem:
                errors.append(DataError(f"{where}: row {prompt.id}", f"{problem}, which reward {name} reads"))
        if len(errors) >= SHOWN:
            break
    raise_all(errors[:SHOWN])


def _problem(prompt: Prompt, fact: str, check: Callable[[Any], Any]) -> str:
    if fact not in prompt.facts:
        return f"carries no {fact!r}"
    try:
        check(prompt.facts[fact])
    except ValueError as error:
        return f"its {fact!r} {error}"
    return ""
