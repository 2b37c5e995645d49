"""What a stage may be rewarded by: one reward model, or named components whose weighted scores are added.

No torch here. A component's `kind` says what else it takes; `align/reward/scorers/` has one scorer for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

import regex
from pydantic import Field, field_validator

from align.config.base import LOG_ONLY, RewardInput, Strict

HTTP_KEY = "ALIGN_REWARD_KEY"  # the environment variable that holds the key of a remote scorer
REWARDS_FROM = "rewards_from"  # names the file of one's own functions, on the command line alone
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Component(Strict):
    """What every component has."""

    kind: str
    weight: float = Field(1.0, ge=-1e4, le=1e4, description="of its score in the sum; 0 only logs it")


class ModelReward(Component):
    """The score of a reward model."""

    kind: Literal["model"]
    model: RewardInput = Field(description="stage that trains the reward model")


class EnsembleReward(Component):
    """One score of several reward models; how far they disagree is logged."""

    kind: Literal["ensemble"]
    models: list[RewardInput] = Field(min_length=2, description="stages that train reward models")
    combine: Literal["mean", "min", "mean_minus_std"] = Field(
        "mean_minus_std", description="of the models' scores; the last two distrust what they disagree on"
    )
    std_weight: float = Field(1.0, gt=0, le=1e3, description="of the std, mean_minus_std only")


class MathReward(Component):
    """1 where the final answer is the one in the prompt's `answer`, else 0."""

    kind: Literal["math"]
    answer_format: Literal["auto", "hash", "boxed", "last_number"] = Field(
        "auto", description="`#### 42`, `\\boxed{42}`, the last number, or the first of them that is there"
    )
    equality: Literal["plain", "symbolic"] = Field(
        "plain", description="equal numbers or texts, or equal expressions too (needs math-verify)"
    )


class ConstraintsReward(Component):
    """How far the answer keeps the prompt's `constraints` on length, words, format and language."""

    kind: Literal["constraints"]
    aggregate: Literal["mean", "min"] = Field("mean", description="the part that is kept, or 1 only for all")


class RegexReward(Component):
    """1 where the pattern is found in the answer, else 0."""

    kind: Literal["regex"]
    pattern: str = Field(min_length=1, description="regular expression, flags inside: (?is)...")
    match: Literal["search", "full"] = Field("search", description="anywhere, or the whole answer")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}; mend it") from None
        return pattern


class JsonSchemaReward(Component):
    """1 where the answer is JSON that obeys the prompt's `schema`, else 0."""

    kind: Literal["json_schema"]


class PythonTestsReward(Component):
    """How many of the prompt's `tests` the answer's Python passes, run in a child process."""

    kind: Literal["python_tests"]
    aggregate: Literal["mean", "min"] = Field("mean", description="the part that passes, or 1 only for all")
    seconds: int = Field(
        5, ge=1, le=600, description="CPU time; killed after twice that and 10 s by the clock"
    )
    memory_mb: int = Field(1024, ge=64, le=1_048_576, description="address space")
    workers: int | None = Field(
        None, ge=1, le=1024, description="children at a time; default: all cores", json_schema_extra=LOG_ONLY
    )


class LengthPenalty(Component):
    """0 up to `allowed` tokens, then falling to -1 over the next `window`."""

    kind: Literal["length_penalty"]
    allowed: int = Field(ge=0, description="tokens of an answer that cost nothing")
    window: int = Field(ge=1, description="further tokens over which the score falls from 0 to -1")


class RepetitionPenalty(Component):
    """Minus the part of the answer's n-grams that stood before: 0 for none, near -1 for a loop."""

    kind: Literal["repetition_penalty"]
    n: int = Field(3, ge=1, le=100, description="words of an n-gram")


class HttpReward(Component):
    """Scores of a server, which is sent prompts and answers as JSON."""

    kind: Literal["http"]
    url: str = Field(description="https://..., or http:// on this machine; docs/rewards.md has the protocol")
    batch_size: int = Field(64, ge=1, le=10_000, description="answers of one request")
    timeout: float = Field(30.0, gt=0, le=3600, description="seconds that one request may take")
    retries: int = Field(5, ge=0, le=100, description="further tries where the server is busy or down")

    @field_validator("url")
    @classmethod
    def _is_safe(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address; give https://HOST/PATH")
        if parts.username or parts.password:
            raise ValueError(f"holds a password; set {HTTP_KEY} in the environment instead")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ValueError(f"{url!r} would send texts and key unencrypted; give https://")
        return url


class EnvironmentReward(Component):
    """What the environment of the stage says that an episode was worth."""

    kind: Literal["environment"]


class FunctionReward(Component):
    """Scores of the user's own function, out of the file that `rewards_from=` names on the command line."""

    kind: Literal["function"]
    name: str = Field(pattern="^[A-Za-z][A-Za-z0-9_]*$", description="of a function in that file")


AnyReward = Annotated[
    ModelReward
    | EnsembleReward
    | MathReward
    | ConstraintsReward
    | RegexReward
    | JsonSchemaReward
    | PythonTestsReward
    | LengthPenalty
    | RepetitionPenalty
    | HttpReward
    | EnvironmentReward
    | FunctionReward,
    Field(discriminator="kind"),
]
ComponentName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]
Rewards = RewardInput | Annotated[dict[ComponentName, AnyReward], Field(min_length=1)]


def components_of(rewards: str | Mapping[str, AnyReward]) -> dict[str, AnyReward]:
    """Name -> component; the name of a stage alone is short for that reward model with weight 1.

    Example:
        >>> components_of("rm")
        {'rm': ModelReward(kind='model', weight=1.0, model='rm')}
    """
    return {rewards: ModelReward(kind="model", model=rewards)} if isinstance(rewards, str) else dict(rewards)


def models_of(rewards: str | Mapping[str, AnyReward]) -> list[str]:
    """Stages of all reward models among the components, each once."""
    return list(dict.fromkeys(name for one in components_of(rewards).values() for name in _models(one)))


def _models(component: Component) -> Iterator[str]:
    if isinstance(component, ModelReward):
        yield component.model
    if isinstance(component, EnsembleReward):
        yield from component.models
