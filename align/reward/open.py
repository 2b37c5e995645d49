"""From the options of a reward to what scores answers: one component, or the weighted sum of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from align.artifacts.store import Artifact
from align.config.rewards import (
    AnyReward,
    Component,
    ConstraintsReward,
    EnsembleReward,
    EnvironmentReward,
    FunctionReward,
    HttpReward,
    JsonSchemaReward,
    LengthPenalty,
    MathReward,
    ModelReward,
    PythonTestsReward,
    RegexReward,
    RepetitionPenalty,
    components_of,
)
from align.config.schema import Dtype
from align.models.reward_model import RewardModel, open_reward_model
from align.reward.scorers.constraints import constraints_scorer
from align.reward.scorers.environment import environment_scorer
from align.reward.scorers.function import function_scorer
from align.reward.scorers.json_schema import json_schema_scorer
from align.reward.scorers.math_answer import math_scorer
from align.reward.scorers.models import ensemble_scorer, model_scorer
from align.reward.scorers.python_tests import python_tests_scorer
from align.reward.scorers.remote import http_scorer
from align.reward.scorers.text import length_scorer, regex_scorer, repetition_scorer
from align.reward.types import Answered, Scorer, Scores, checked


@dataclass
class Models:
    """The reward models that components name, each opened once.

    Attributes:
        inputs: Name of a stage -> its artifact.
        base: The base model's folder.
        template: Name of the chat template.
        dtype: That models compute in.
        tokens: Of one forward.
        opened: Those that are open already.
    """

    inputs: Mapping[str, Artifact]
    base: Path
    template: str | None
    dtype: Dtype = "float32"
    tokens: int | Literal["auto"] = "auto"
    opened: dict[str, RewardModel] = field(default_factory=dict)

    def open(self, name: str) -> RewardModel:
        """A stage's reward model."""
        if name not in self.opened:
            self.opened[name] = open_reward_model(self.inputs[name], self.base, self.template, self.dtype)
        return self.opened[name]

    def scorer(self, name: str) -> Scorer:
        """The scorer of a stage's reward model."""
        return model_scorer(self.open(name), self.open(name).budget(self.tokens))


RULES: dict[type[Component], Callable[[Any], Scorer]] = {
    MathReward: math_scorer,
    ConstraintsReward: constraints_scorer,
    RegexReward: regex_scorer,
    JsonSchemaReward: json_schema_scorer,
    PythonTestsReward: python_tests_scorer,
    LengthPenalty: length_scorer,
    RepetitionPenalty: repetition_scorer,
    HttpReward: http_scorer,
    EnvironmentReward: environment_scorer,
    FunctionReward: function_scorer,
}


def open_scorer(rewards: str | Mapping[str, AnyReward], models: Models) -> Scorer:
    """What scores answers as a stage's `reward` says.

    The score is the sum of the components' scores, each times its weight. Parts: the score of each component
    under its name, before the weight, and the component's own parts under `name/part`.

    Args:
        rewards: The name of a stage, or named components.
        models: Where the reward models are.

    Raises:
        AlignError: A model, package or function that is not there.
    """
    components = components_of(rewards)
    scorers = {name: _open(component, models) for name, component in components.items()}
    weights = {name: component.weight for name, component in components.items()}
    return weighted_sum(scorers, weights)


def weighted_sum(scorers: Mapping[str, Scorer], weights: Mapping[str, float]) -> Scorer:
    """The sum of several scores, each times its weight; a score that is no finite number is refused."""

    def scorer(answers: Sequence[Answered]) -> Scores:
        total = torch.zeros(len(answers))
        parts: dict[str, torch.Tensor] = {}
        for name, component in scorers.items():
            scores = checked(component(answers), answers, f"reward {name}")
            total += weights[name] * scores.values
            parts[name] = scores.values
            parts |= {f"{name}/{part}": values for part, values in scores.parts.items()}
        return Scores(total, parts)

    return scorer


def _open(component: Component, models: Models) -> Scorer:
    if isinstance(component, ModelReward):
        return models.scorer(component.model)
    if isinstance(component, EnsembleReward):
        return ensemble_scorer(component, {name: models.scorer(name) for name in component.models})
    return RULES[type(component)](component)
