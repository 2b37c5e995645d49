"""What the options of all stages share: how they are read, how data and other stages are named.

No torch here: `--help`, `--cfg job` and every config error answer without it. A field that names another
stage is declared with `Input(kind)`; a field that only changes what is logged or how often state is saved is
declared with `log_only=True` and does not enter the stage key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


@dataclass(frozen=True)
class Input:
    """Marks an option as the name of a stage whose artifact is of `kind`; `base` names the base model."""

    kind: Literal["policy", "reward", "dataset"]


PolicyInput = Annotated[str, Input("policy")]
RewardInput = Annotated[str, Input("reward")]
LOG_ONLY: dict[str, Any] = {"log_only": True}


class Strict(BaseModel):
    """A closed set of keys; numbers must be finite; strings are not turned into numbers or back."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


class DataRef(Strict):
    """Rows to read: a card from `data_cards/`, or a local file. A bare string is short for either."""

    card: str | None = Field(None, description="name of a data card")
    path: str | None = Field(None, description="local file; with a card: a local copy of the card's source")
    stage: Annotated[str, Input("dataset")] | None = Field(None, description="stage whose rows are read")
    limit: int | None = Field(None, ge=1, description="at most this many rows, the first of the card's order")
    repeat: int = Field(1, ge=1, le=100, description="each row so many times an epoch")

    on_bad_row: Literal["refuse", "skip"] = Field("refuse", description="skip leaves it out and counts it")

    @model_validator(mode="after")
    def _names_something(self) -> DataRef:
        if self.card is None and self.path is None and self.stage is None:
            raise ValueError("names no data; give card:, path: or stage:")
        if self.stage is not None and self.card is not None:
            raise ValueError("names a card and a stage; give one of them")
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


class SamplingOptions(Strict):
    """How answers are sampled."""

    model_config = ConfigDict(frozen=True)

    max_new_tokens: int = Field(64, ge=1, le=32768, description="longest answer, tokens")
    min_new_tokens: int = Field(
        0, ge=0, le=32768, description="no EOS before so many, and no stop string within them"
    )
    temperature: float = Field(1.0, ge=0, le=10, description="divides the logits; 0 is greedy")
    top_k: int | None = Field(None, ge=1, description="only the so many most likely tokens; default: all")
    top_p: float = Field(
        1.0, gt=0, le=1, description="only the most likely tokens that make up so much probability"
    )
    min_p: float = Field(
        0.0, ge=0, lt=1, description="only tokens at least so likely, times the most likely one"
    )
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        [], description="an answer ends behind the first of these strings; its text ends before it"
    )
