"""What all options are made of: a closed set of keys, and the marks that a field may carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Input:
    """Marks an option as the name of a stage whose artifact is of `kind`; `base` names the base model."""

    kind: Literal["policy", "reward"]


PolicyInput = Annotated[str, Input("policy")]
RewardInput = Annotated[str, Input("reward")]
LOG_ONLY: dict[str, Any] = {"log_only": True}


class Strict(BaseModel):
    """A closed set of keys; numbers must be finite; strings are not turned into numbers or back."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)
