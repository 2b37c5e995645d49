"""Float32 copies of the weights that learn in a model held in bfloat16.

A step of 1e-5 on a weight of 0.1 is lost where the next number is 5e-4 away, so the optimizer steps a float32
copy, from gradients that are added up in float32, and the model gets it rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from align.training.optim import Group


@dataclass
class Masters:
    """What the optimizer steps in place of the model's own weights.

    Attributes:
        groups: The groups, a float32 copy in place of each parameter that is not float32.
        pairs: The model's parameters that have a copy, and their copies.
    """

    groups: list[Group]
    pairs: list[tuple[nn.Parameter, nn.Parameter]] = field(default_factory=list)

    @torch.no_grad()
    def follow(self) -> None:
        """Take over what was written into the model since, such as a head that was fitted."""
        for p, master in self.pairs:
            if not torch.equal(p, master.to(p.dtype)):
                master.copy_(p)

    @torch.no_grad()
    def write_back(self) -> None:
        """Give the model the copies, rounded."""
        for p, master in self.pairs:
            p.copy_(master)


def masters_of(groups: Sequence[Group]) -> Masters:
    """Copies of what is not float32; gradients of those parameters go to the copies as they come about."""
    made = Masters([])
    for group in groups:
        steps = {name: _master(p, made.pairs) for name, p in group.parameters.items()}
        made.groups.append(replace(group, parameters=steps))
    return made


def _master(p: nn.Parameter, pairs: list[tuple[nn.Parameter, nn.Parameter]]) -> nn.Parameter:
    if p.dtype == torch.float32:
        return p
    master = nn.Parameter(p.detach().float())

    def hand_over(model_parameter: torch.Tensor) -> None:
        grad, model_parameter.grad = model_parameter.grad, None
        if grad is not None:
            master.grad = grad.float() if master.grad is None else master.grad.add_(grad)

    p.register_post_accumulate_grad_hook(hand_over)
    pairs.append((p, master))
    return master
