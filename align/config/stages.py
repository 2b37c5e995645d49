"""Options of each kind of stage: the one place where a default stands.

No torch here: `--help`, `--cfg job` and every config error answer without it. A field that names another
stage is declared with `Input(kind)`; a field that only changes what is logged or how often state is saved is
declared with `log_only=True` and does not enter the stage key.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from align.config.base import LOG_ONLY, PolicyInput, RewardInput, Strict
from align.config.losses import LOSSES, Divergence, weights_of
from align.config.rewards import Rewards


class DataRef(Strict):
    """Rows to read: a card from `data_cards/`, or a local file. A bare string is short for either."""

    card: str | None = Field(None, description="name of a data card")
    path: str | None = Field(None, description="local file; with a card: a local copy of the card's source")
    limit: int | None = Field(None, ge=1, description="at most this many rows, the first of the card's order")
    repeat: int = Field(1, ge=1, le=100, description="each row so many times an epoch")

    on_bad_row: Literal["refuse", "skip"] = Field("refuse", description="skip leaves it out and counts it")

    @model_validator(mode="after")
    def _names_something(self) -> DataRef:
        if self.card is None and self.path is None:
            raise ValueError("names no data; give card: or path:")
        return self


Tokens = Annotated[int, Field(ge=16)] | Literal["auto"]
SEEDS = 2**63 - 1  # the largest seed that torch takes
Data = str | DataRef | list[str | DataRef]


class StageOptions(Strict):
    """Options that every stage has."""

    kind: str
    seed: int | None = Field(None, ge=0, le=SEEDS, description="overrides the recipe's seed for this stage")


class TrainingOptions(StageOptions):
    """Options of every stage that trains."""

    lr: float = Field(gt=0, lt=1, description="peak learning rate")
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="after the warm-up, to 0")
    warmup: float = Field(0.05, ge=0, lt=1, description="part of all steps")
    optimizer: Literal["adamw", "muon", "adamw_8bit"] = Field(
        "adamw", description="muon: for hidden matrices, the rest by AdamW; adamw_8bit: needs bitsandbytes"
    )
    weight_decay: float = Field(0.0, ge=0, lt=1, description="of matrices, apart from the gradient")
    max_grad_norm: float = Field(1.0, gt=0, description="longer gradients are scaled down to it")
    tokens_per_microbatch: Tokens = Field(
        "auto", description="tokens of one forward; cuts batches, changes no result"
    )
    max_prompt: int = Field(512, ge=4, description="tokens; longer prompts lose their middle")
    max_drop: float = Field(
        0.01, ge=0, le=1, description="part of the rows that may be dropped before the stage refuses"
    )


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


class SamplingOptions(Strict):
    """How answers are sampled."""

    max_new_tokens: int = Field(64, ge=1, le=32768, description="longest answer, tokens")
    temperature: float = Field(1.0, ge=0, le=10, description="divides the logits; 0 is greedy")


def _divisor(rows: int) -> int:
    """A number of minibatches that goes into `rows`, 4 or the next below."""
    return next(count for count in (4, 3, 2, 1) if rows % count == 0)


class PpoOptions(TrainingOptions):
    """Proximal policy optimisation with a critic."""

    kind: Literal["ppo"]
    policy: PolicyInput = Field(description="policy to start from; also the reference")
    reward: Rewards = Field(description="a reward model, or {name: component, ...} whose scores are added")
    prompts: Data = Field(description="prompts, or data whose prompts are used")
    lr: float = Field(1e-5, gt=0, lt=1, description="peak learning rate")
    critic_lr: float | None = Field(None, gt=0, lt=1, description="default: 3 x lr")
    iterations: int = Field(10, ge=1, description="rounds of sampling and learning")
    prompts_per_iteration: int = Field(16, ge=1, description="prompts of one round")
    samples_per_prompt: int = Field(1, ge=1, description="answers sampled for each prompt")
    epochs: int = Field(4, ge=1, description="passes over each round's samples")
    minibatches: int = Field(4, ge=1, description="optimizer steps per pass")
    sampling: SamplingOptions = Field(default_factory=SamplingOptions)
    clip: float = Field(0.2, gt=0, lt=1, description="of the probability ratio")
    value_clip: float = Field(0.2, gt=0, description="of the change of a value")
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    lam: float = Field(0.95, ge=0, le=1, description="lambda of GAE")
    whiten: bool = Field(True, description="advantages to mean 0 and variance 1 over the round")
    kl_coef: float = Field(0.05, ge=0, description="of the per-token KL (k1) in the reward")
    kl_target: float | None = Field(None, gt=0, description="nats per answer; adapts kl_coef (InstructGPT)")
    kl_horizon: int = Field(10000, ge=1, description="samples, of the adaptive controller")
    missing_eos_penalty: float = Field(1.0, ge=0, description="taken from the score of an answer without EOS")
    normalise_reward: bool = Field(
        True, description="by mean and std of the reference's answers, measured once"
    )
    critic_init: Literal["reward", "fit"] = Field(
        "fit", description="the reward's head, or a ridge fit to round 1"
    )
    critic_warmup: int = Field(0, ge=0, description="first iterations in which only the critic learns")
    save_every: int = Field(
        1, ge=1, description="iterations between saved states", json_schema_extra=LOG_ONLY
    )

    @model_validator(mode="after")
    def _minibatches_are_filled(self) -> PpoOptions:
        rows = self.prompts_per_iteration * self.samples_per_prompt
        if rows % self.minibatches:
            what = f"minibatches {self.minibatches} does not divide"
            raise ValueError(
                f"{what} prompts_per_iteration x samples_per_prompt = {rows}; try {_divisor(rows)}"
            )
        if rows < 2 and (self.normalise_reward or self.whiten):
            raise ValueError("one answer per round has no spread to normalise by; give at least 2")
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature 0 draws nothing to learn from; give 0.7 to 1")
        return self


class EvaluateOptions(StageOptions):
    """Compare policies on held-out prompts, beside controls."""

    kind: Literal["evaluate"]
    policies: list[PolicyInput] = Field(
        min_length=1, description="the first is the baseline of the comparison"
    )
    reward: RewardInput = Field(description="the score that was optimised")
    prompts: Data = Field(description="prompts; their held-out part is used")
    judge: Data | None = Field(
        None, description="rankings for the second judge, a bag of words on human ratings"
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
    | PpoOptions
    | EvaluateOptions,
    Field(discriminator="kind"),
]
KINDS: dict[str, type[StageOptions]] = {
    "sft": SftOptions,
    "reward": RewardOptions,
    "process_reward": ProcessRewardOptions,
    "dpo": DpoOptions,
    "kto": KtoOptions,
    "ppo": PpoOptions,
    "evaluate": EvaluateOptions,
}
OUTPUTS: dict[str, str] = {
    "sft": "policy",
    "reward": "reward",
    "process_reward": "reward",
    "dpo": "policy",
    "kto": "policy",
    "ppo": "policy",
    "evaluate": "evaluation",
}
