"""A critic: the reward model's weights, learning apart from it, read before every token of an answer."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Tensor, nn

from align.engine.batch import TokenBatch
from align.engine.forward import states
from align.models import adapters
from align.models.reward_model import RewardModel

NAME = "critic"


@dataclass
class Critic:
    """Values [C] in the units of the normalised reward.

    With adapters it shares the reward model's frozen base and has an adapter and a head of its own; without, it is a
    second model.

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
        if not self.shared:
            return self._read(batch)
        with adapters.switched(self.model.model, NAME):
            return self._read(batch)

    def _read(self, batch: TokenBatch) -> Tensor:
        plain = self.model.plain
        raw: Tensor = self.model.head(states(plain.base_model, batch).scored)[:, 0].float()
        return (raw - self.mean) / self.std


def critic_of(reward: RewardModel) -> Critic:
    """A critic that starts where the reward model stands; the reward model itself stays frozen."""
    if adapters.is_peft(reward.model):
        adapters.copy_adapter(reward.model, NAME)
        for name, p in reward.model.named_parameters():
            p.requires_grad_(f".{NAME}" in name)
        return Critic(reward, shared=True)
    own = RewardModel(copy.deepcopy(reward.model).requires_grad_(True), reward.template, reward.base)
    return Critic(own, shared=False)
