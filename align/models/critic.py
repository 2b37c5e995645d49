"""A critic: the reward model's weights, learning apart from it, read before every token of an answer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

from align.engine.batch import TokenBatch
from align.engine.forward import states
from align.models import adapters
from align.models.freezing import freeze
from align.models.reward_model import RewardModel

NAME = "critic"


@dataclass
class Critic:
    """Values [C] in the units of the normalised reward.

    With adapters it shares the reward model's frozen base and has an adapter and a head of its own; without,
    it is a second model.

    Attributes:
        model: The reward model that it shares, or its own copy.
        shared: True where it is an adapter beside the reward's.
        mean: Taken from the raw value, as from the reward.
        std: Divides it.
    """

    model: RewardModel
    shared: bool
    mean: float = 0.0
    std: float = 1.0

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter that learns."""
        return self.model.trainable()

    def values(self, batch: TokenBatch) -> Tensor:
        """[C] the value before each scored token (differentiable)."""
        with self._active():
            raw = self.model.read(self._states(batch))
        return (raw - self.mean) / self.std

    def features(self, batch: TokenBatch) -> Tensor:
        """[C, D] the hidden states that values are read from."""
        with self._active():
            return self._states(batch).float()

    def set_head(self, weight: Tensor, offset: float) -> None:
        """Make the value `weight [D] . features + offset`."""
        self.model.set_head(weight * self.std, NAME if self.shared else adapters.ACTIVE)
        self.mean = -offset * self.std

    def _states(self, batch: TokenBatch) -> Tensor:
        return states(self.model.plain.base_model, batch).scored

    def _active(self) -> AbstractContextManager[None]:
        return adapters.switched(self.model.model, NAME) if self.shared else nullcontext()


def critic_of(reward: RewardModel, frozen: Sequence[str] = ()) -> Critic:
    """A critic that starts where the reward model stands; the reward model itself stays frozen.

    Args:
        reward: The reward model.
        frozen: Patterns of the parameters that do not learn, where all weights are trained.
    """
    if adapters.is_peft(reward.model):
        adapters.copy_adapter(reward.model, NAME)
        for name, p in reward.model.named_parameters():
            p.requires_grad_(f".{NAME}" in name)
        return Critic(reward, shared=True)
    own = RewardModel(copy.deepcopy(reward.model).requires_grad_(True), reward.template, reward.base)
    freeze(own.model, frozen)
    return Critic(own, shared=False)
