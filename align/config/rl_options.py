"""Options of the stages that sample: reinforcement learning, and answers as data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from align.config.base import (
    LOG_ONLY,
    Data,
    PolicyInput,
    RewardInput,
    SamplingOptions,
    StageOptions,
    Strict,
    Tokens,
    TrainingOptions,
)
from align.config.rewards import Rewards, models_of


class AlarmOptions(Strict):
    """When a rising reward is not believed: how far other measures may move from the first round's."""

    length: float = Field(1.5, gt=1, description="mean tokens of an answer, times or divided by")
    distinct: float = Field(0.8, gt=0, le=1, description="part of answers that differ, times")
    eos: float = Field(0.2, gt=0, le=1, description="part of answers that end, less")
    disagreement: float = Field(2.0, gt=1, description="of an ensemble of reward models, times")
    kl: float | None = Field(None, gt=0, description="nats per answer, whatever the reward does")
    stop: bool = Field(False, description="stop the run instead of warning")


Advantage = Literal[
    "gae", "grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "remax", "best_of_n"
]
GROUPED = ("grpo", "dr_grpo", "rloo", "reinforce_pp_baseline", "best_of_n")  # compare answers to one prompt
WHITENED = ("gae", "reinforce_pp", "reinforce_pp_baseline")  # by their papers


class RlOptions(TrainingOptions):
    """Reinforcement learning on sampled answers: PPO, GRPO, RLOO and their kin, chosen part by part."""

    kind: Literal["rl"]
    policy: PolicyInput = Field(description="policy to start from; also the reference")
    reward: Rewards = Field(description="a reward model, or {name: component, ...} whose scores are added")
    prompts: Data = Field(description="prompts, or data whose prompts are used")
    lr: float = Field(1e-5, gt=0, lt=1, description="peak learning rate")
    iterations: int = Field(10, ge=1, description="rounds of sampling and learning")
    prompts_per_iteration: int = Field(16, ge=1, description="prompts of one round")
    samples_per_prompt: int = Field(1, ge=1, description="answers sampled for each prompt: the group")
    epochs: int = Field(4, ge=1, description="passes over each round's samples")
    minibatches: int = Field(4, ge=1, description="optimizer steps per pass")
    sampling: SamplingOptions = Field(default_factory=SamplingOptions)
    environment: Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9_]*$")] | None = Field(
        None, description="replies to answers, which become turns: calculator, or a class of one's own"
    )
    max_turns: int = Field(4, ge=1, le=100, description="turns of the policy in an episode; environment only")
    resample: int = Field(
        0, ge=0, le=100, description="times that groups of equal scores are replaced by new prompts (DAPO)"
    )

    advantage: Advantage = Field("gae", description="gae has a critic; the others compare answers")
    whiten: bool | None = Field(
        None, description="advantages to mean 0, variance 1; default: with gae and reinforce_pp"
    )
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token; gae, reinforce_pp, remax")
    lam: float = Field(0.95, ge=0, le=1, description="lambda of GAE")
    critic: RewardInput | None = Field(
        None, description="reward model it starts from; default: the first of reward, else policy; gae only"
    )
    critic_lr: float | None = Field(None, gt=0, lt=1, description="default: 3 x lr; gae only")
    critic_init: Literal["reward", "fit"] = Field(
        "fit", description="the reward's head, or a ridge fit to round 1; gae only"
    )
    critic_warmup: int = Field(
        0, ge=0, description="first iterations in which only the critic learns; gae only"
    )
    value_clip: float = Field(0.2, gt=0, description="of the change of a value; gae only")

    loss: Literal["clip", "cispo"] = Field(
        "clip", description="PPO's clipped ratio, or REINFORCE weighted by the ratio, which is cut"
    )
    ratio: Literal["token", "geometric_mean", "product"] = Field(
        "token", description="of each token, or of whole answers: geometric_mean is GSPO"
    )
    clip: float = Field(0.2, gt=0, lt=1, description="how far the ratio may move")
    clip_high: float | None = Field(None, gt=0, description="upwards (clip-higher); default: clip")
    dual_clip: float | None = Field(
        None, gt=1, description="most that a bad answer is pushed down, times its advantage"
    )
    normalise: Literal["token", "sequence", "constant"] = Field(
        "token",
        description="mean over tokens, over answers of their means, or over answers by max_new_tokens",
    )
    entropy_coef: float = Field(0.0, ge=0, description="of the entropy bonus")

    kl: Literal["k1", "k2", "k3", "none"] = Field(
        "k1", description="estimator of the divergence from the reference; none keeps no reference"
    )
    kl_in: Literal["reward", "loss"] = Field("reward", description="where it counts")
    kl_coef: float = Field(0.05, ge=0, description="of the KL, per token")
    kl_target: float | None = Field(None, gt=0, description="nats per answer; adapts kl_coef (InstructGPT)")
    kl_horizon: int = Field(10000, ge=1, description="samples, of the adaptive controller")
    reference_every: int | None = Field(
        None, ge=1, description="iterations after which the policy becomes the reference; default: never"
    )

    missing_eos_penalty: float = Field(1.0, ge=0, description="taken from the score of an answer without EOS")
    overlong_buffer: int = Field(
        0, ge=0, description="last tokens before max_new_tokens in which the score falls by up to 1 (DAPO)"
    )
    drop_cut: bool = Field(False, description="leave answers without EOS out of the loss")
    reward_scale: Literal["reference", "running", "none"] = Field(
        "reference",
        description="mean and std of the reference's answers, measured once; std of all so far; or none",
    )
    reward_clip: float | None = Field(None, gt=0, description="largest scaled score, either sign")
    alarm: AlarmOptions = Field(default_factory=AlarmOptions)
    ptx_data: Data | None = Field(None, description="conversations to keep imitating beside (PPO-ptx)")
    ptx_coef: float = Field(1.0, gt=0, description="of their mean negative log-likelihood")
    ptx_batch: int = Field(4, ge=1, description="conversations per optimizer step")
    save_every: int = Field(
        1, ge=1, description="iterations between saved states", json_schema_extra=LOG_ONLY
    )

    @property
    def whitens(self) -> bool:
        """Whether advantages are whitened."""
        return self.advantage in WHITENED if self.whiten is None else self.whiten

    @property
    def longest(self) -> int:
        """Most tokens that are sampled for an answer, or for all turns of an episode."""
        return self.sampling.max_new_tokens * (1 if self.environment is None else self.max_turns)

    @model_validator(mode="after")
    def _minibatches_are_filled(self) -> RlOptions:
        rows = self.prompts_per_iteration * self.samples_per_prompt
        if rows % self.minibatches:
            what = f"minibatches {self.minibatches} does not divide"
            raise ValueError(
                f"{what} prompts_per_iteration x samples_per_prompt = {rows}; try {_divisor(rows)}"
            )
        if rows < 2 and (self.reward_scale == "reference" or self.whitens):
            raise ValueError("one answer per round has no spread to normalise by; give at least 2")
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature 0 draws nothing to learn from; give 0.7 to 1")
        return self


def critic_source(o: RlOptions) -> str | None:
    """The stage of the reward model that the critic starts from; None: it starts from the policy."""
    return o.critic or next(iter(models_of(o.reward)), None)


def _divisor(rows: int) -> int:
    """A number of minibatches that goes into `rows`, 4 or the next below."""
    return next(count for count in (4, 3, 2, 1) if rows % count == 0)


class SampleOptions(StageOptions):
    """Answers of a policy as data: the best of several, or all of them as a ranking."""

    kind: Literal["sample"]
    policy: PolicyInput = Field("base", description="policy that answers")
    prompts: Data = Field(description="prompts, or data whose prompts are used")
    reward: Rewards | None = Field(None, description="scores the answers, as in kind rl")
    limit: int | None = Field(None, ge=1, description="at most this many prompts")
    samples_per_prompt: int = Field(4, ge=1, description="answers sampled for each prompt")
    keep: Literal["best", "ranking"] = Field(
        "best", description="the best answer as a conversation, or all that differ as a ranking by score"
    )
    min_score: float | None = Field(None, description="answers that score lower are left out")
    drop_cut: bool = Field(True, description="leave answers without EOS out")
    sampling: SamplingOptions = Field(default_factory=SamplingOptions)
    max_prompt: int = Field(512, ge=4, description="tokens; longer prompts lose their middle")
    max_drop: float = Field(
        0.01, ge=0, le=1, description="part of the rows that may be dropped before the stage refuses"
    )
    tokens_per_microbatch: Tokens = Field("auto", description="tokens of one forward; changes no result")
