"""What a reward needs beyond a plain install: packages, and the user's own functions. No torch here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping

from align.config.rewards import AnyReward, Component, FunctionReward, JsonSchemaReward, MathReward
from align.errors import AlignError, ConfigError
from align.reward import functions

INSTALL = "pip install 'align[rewards]'"


def missing(key: str, rewards: str | Mapping[str, AnyReward]) -> list[AlignError]:
    """An error for each component that could not be opened.

    Args:
        key: Path of the reward, such as `stages.ppo.reward`.
        rewards: The name of a stage, or named components.
    """
    if isinstance(rewards, str):
        return []
    found: list[AlignError] = []
    for name, component in rewards.items():
        where = f"{key}.{name}"
        found += [
            ConfigError(where, f"{component.kind} needs {package}, which is not installed", INSTALL)
            for package, module in _packages(component)
            if importlib.util.find_spec(module) is None
        ]
        if isinstance(component, FunctionReward):
            found += _function(component, where)
    return found


def missing_environment(key: str, name: str | None) -> list[AlignError]:
    """An error for an environment that is not there.

    Args:
        key: Path of the option, such as `stages.ppo.environment`.
        name: Of the environment; None where the stage has none.
    """
    try:
        if name is not None:
            functions.find_environment(name, key)
    except ConfigError as error:
        return [error]
    return []


def _packages(component: Component) -> Iterator[tuple[str, str]]:
    """(package, module) of those that are not part of a plain install."""
    if isinstance(component, MathReward) and component.equality == "symbolic":
        yield "math-verify", "math_verify"
    if isinstance(component, JsonSchemaReward):
        yield "jsonschema", "jsonschema"


def _function(component: FunctionReward, where: str) -> list[AlignError]:
    try:
        functions.find(component.name, where)
    except ConfigError as error:
        return [error]
    return []
