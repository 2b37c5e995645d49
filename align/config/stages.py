"""Options of each kind of stage: the one place where a default stands.

No torch here: `--help`, `--cfg job` and every config error answer without it. A field that names another
stage is declared with `Input(kind)`; a field that only changes what is logged or how often state is saved is
declared with `log_only=True` and does not enter the stage key.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator

from align.config.base import (
    LOG_ONLY,
    Data,
    PolicyInput,
    SamplingOptions,
    StageOptions,
    Tokens,
    TrainingOptions,
)
from align.config.losses import LOSSES, Divergence, weights_of
from align.config.rewards import Rewards
from align.config.rl_options import RlOptions, SampleOptions


class SupervisedOptions(TrainingOptions):
    """Options of every stage that passes over fixed rows."""

    engine: Literal["align", "trl"] = Field("align", description="what trains: Align, or TRL's own trainer")
    max_answer: int = Field(
        512, ge=2, description="tokens, EOS included; longer answers are cut and EOS is put back"
    )
    epochs: int = Field(1, ge=1, le=1000, description="passes over the data")
    checkpoint_every: int = Field(
        50, ge=1, description="steps between saved states", json_schema_extra=LOG_ONLY
    )


TrainOn = Literal["assistant", "last", "all"]


class SftOptions(SupervisedOptions):
    """Supervised fine-tuning on assistant turns (likelihood)."""

    kind: Literal["sft"]
    model: PolicyInput = Field("base", description="policy to start from")
    data: Data = Field(description="conversations, or plain texts")
    lr: float = Field(2e-4, gt=0, lt=1, description="peak learning rate")
    batch_size: int = Field(8, ge=1, description="conversations, or windows of plain text, per step")
    train_on: TrainOn = Field("assistant", description="the assistant's turns, its last one, or every token")
    loss: Literal["nll", "dft"] = Field("nll", description="dft weighs a token by its own probability")
    normalise: Literal["token", "sequence"] = Field(
        "token", description="mean over the step's tokens, or over its sequences of their means"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="part of the target spread over the vocabulary, nll only"
    )
    neftune_alpha: float = Field(
        0.0, ge=0, description="noise on embeddings in training, 5 to 15 in the paper; 0 is off"
    )


class ScoringOptions(SupervisedOptions):
    """Options of every stage that learns a score head on a policy's weights."""

    model: PolicyInput = Field("base", description="policy whose weights it starts from")
    lr: float = Field(1e-4, gt=0, lt=1, description="peak learning rate")
    head_lr: float | None = Field(None, gt=0, lt=1, description="of the score head; default: lr")
    layers: int | None = Field(None, ge=1, description="keep so many lower layers; default: all")


class RewardOptions(ScoringOptions):
    """A reward model from rankings of K answers per prompt, or from ratings of answers by themselves."""

    kind: Literal["reward"]
    data: Data = Field(description="rankings, with loss=ordinal ratings")
    batch_size: int = Field(8, ge=1, description="prompts per step, all their answers together")
    loss: Literal["plackett_luce", "bradley_terry", "ordinal"] = Field(
        "bradley_terry", description="whole rankings, all pairs of a prompt, or ratings on an ordered scale"
    )
    scale: list[float] | None = Field(
        None,
        min_length=2,
        description="levels of the ratings, lowest first, ordinal only; default: those of the training rows",
    )
    margin: float = Field(0.0, ge=0, description="times the difference of ratings, Bradley-Terry only")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="part of pairs taken as the wrong way round, Bradley-Terry only"
    )
    centring: float = Field(0.0, ge=0, description="weight of (mean score)^2 of a prompt's answers")
    max_answers: int = Field(
        9, ge=2, le=64, description="answers of one prompt; more are thinned over the tiers"
    )
    head_init: Literal["normal", "fit"] = Field(
        "normal", description="std 1/sqrt(D+1), or ridge on frozen features"
    )

    @field_validator("scale")
    @classmethod
    def _levels_rise(cls, scale: list[float] | None) -> list[float] | None:
        if scale is not None and any(low >= high for low, high in pairwise(scale)):
            raise ValueError(f"{scale} does not rise; give the lowest level first, each once")
        return scale


class ProcessRewardOptions(ScoringOptions):
    """A reward model that scores each step of an answer."""

    kind: Literal["process_reward"]
    data: Data = Field(description="stepwise: answers in steps, each with a label")
    batch_size: int = Field(8, ge=1, description="answers per step of the optimizer")
    loss: Literal["bce", "mse"] = Field(
        "bce", description="labels 0 to 1 as probabilities, or any numbers as they are"
    )
    step_separator: str = Field("\n", min_length=1, description="stands behind each step, the last one too")
    aggregate: Literal["min", "last", "mean", "product"] = Field(
        "min", description="of the steps' values, the score of an answer that later stages read"
    )


LossName = Annotated[str, Field(json_schema_extra={"enum": list(LOSSES)})]
Weight = Annotated[float, Field(gt=0)]


class DpoOptions(SupervisedOptions):
    """Preferences learned directly: from the best and the worst answer of each ranking, or from all."""

    kind: Literal["dpo"]
    model: PolicyInput = Field("base", description="policy to start from; also the reference")
    data: Data = Field(description="rankings or pairs")
    lr: float = Field(5e-6, gt=0, lt=1, description="peak learning rate")
    batch_size: int = Field(8, ge=1, description="pairs, or whole rankings, per step")
    loss: LossName | dict[str, Weight] = Field(
        "sigmoid", description="name, or {name: weight, ...} for a sum; docs/algorithms.md has them all"
    )
    beta: float = Field(0.1, gt=0, le=10, description="how strongly it is held to the reference")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="part of labels taken as wrong")
    divergence: Divergence = Field("reverse_kl", description="that holds it to the reference")
    alpha: float | None = Field(
        None, gt=0, lt=1, description="of divergence=alpha, from reverse KL near 0 to forward KL near 1"
    )
    ld_alpha: float | None = Field(
        None, ge=0, le=1, description="weight of tokens behind the length of the shorter answer; default: 1"
    )
    wpo: bool = Field(
        False, description="weigh each pair by how likely both answers are under the policy of now"
    )
    discopop_tau: float = Field(0.05, gt=0, le=1, description="temperature of the blend in discopop")
    simpo_gamma: float = Field(0.5, ge=0, description="margin of rewards that simpo asks for")
    max_answers: int = Field(
        9, ge=2, le=64, description="answers of a whole ranking; more are thinned over the tiers"
    )

    @field_validator("loss")
    @classmethod
    def _losses_are_known(cls, loss: str | dict[str, float]) -> str | dict[str, float]:
        weights_of(loss)
        return loss


class KtoOptions(SupervisedOptions):
    """Preferences learned from single answers that were called desirable or undesirable, without pairs."""

    kind: Literal["kto"]
    model: PolicyInput = Field("base", description="policy to start from; also the reference")
    data: Data = Field(description="unpaired preferences, or rankings or pairs, whose best and worst serve")
    lr: float = Field(5e-6, gt=0, lt=1, description="peak learning rate")
    batch_size: int = Field(16, ge=1, description="answers per step; kto takes its KL from all of them")
    loss: Literal["kto", "bco", "apo_zero_unpaired"] = Field(
        "kto", description="rewards against the KL, against their moving middle, or against 0"
    )
    beta: float = Field(0.1, gt=0, le=10, description="how strongly it is held to the reference")
    desirable_weight: float = Field(1.0, gt=0, le=1000, description="of a desirable answer's loss")
    undesirable_weight: float = Field(1.0, gt=0, le=1000, description="of an undesirable answer's loss")


class EvaluateOptions(StageOptions):
    """Compare policies on held-out prompts, beside controls."""

    kind: Literal["evaluate"]
    policies: list[PolicyInput] = Field(
        min_length=1, description="the first is the baseline of the comparison"
    )
    reward: Rewards = Field(description="the score that was optimised, as in kind rl")
    prompts: Data = Field(description="prompts; their held-out part is used")
    judge: Data | None = Field(
        None, description="rankings for the second judge, a bag of words on human ratings"
    )
    best_of: int = Field(
        1, ge=1, le=1000, description="answers; above 1 a control: the baseline's best of them by the reward"
    )
    limit: int | None = Field(None, ge=1, description="prompts of each source")
    sampling: SamplingOptions = Field(default_factory=SamplingOptions)
    max_prompt: int = Field(512, ge=4, description="tokens; longer prompts lose their middle")
    tokens_per_microbatch: Tokens = Field("auto", description="tokens of one forward; changes no result")
    refusal_text: str = Field("I'm sorry, but I can't help with that.", description="the constant refusal")


AnyStage = Annotated[
    SftOptions
    | RewardOptions
    | ProcessRewardOptions
    | DpoOptions
    | KtoOptions
    | RlOptions
    | SampleOptions
    | EvaluateOptions,
    Field(discriminator="kind"),
]
KINDS: dict[str, type[StageOptions]] = {
    "sft": SftOptions,
    "reward": RewardOptions,
    "process_reward": ProcessRewardOptions,
    "dpo": DpoOptions,
    "kto": KtoOptions,
    "rl": RlOptions,
    "sample": SampleOptions,
    "evaluate": EvaluateOptions,
}
OUTPUTS: dict[str, str] = {
    "sft": "policy",
    "reward": "reward",
    "process_reward": "reward",
    "dpo": "policy",
    "kto": "policy",
    "rl": "policy",
    "sample": "dataset",
    "evaluate": "evaluation",
}
