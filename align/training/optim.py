"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from align.models.adapters import layer_of

BETAS = (0.9, 0.999)
EPS = 1e-8
MOMENTUM = 0.95  # of Muon


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate.

    Attributes:
        name: In metrics: `grad_norm/<name>`.
        parameters: Name -> parameter.
        lr: Peak learning rate.
        clip_with: Name of the group whose gradient it is clipped with, where the two are one model; None
            clips it alone.
    """

    name: str
    parameters: Mapping[str, nn.Parameter]
    lr: float
    clip_with: str | None = None


def clipped_together(groups: Sequence[Group]) -> dict[str, list[nn.Parameter]]:
    """Name -> the parameters whose gradient is clipped as one, in the groups' order."""
    found: dict[str, list[nn.Parameter]] = {}
    for group in groups:
        found.setdefault(group.clip_with or group.name, []).extend(group.parameters.values())
    return found


def build(name: str, groups: Sequence[Group], weight_decay: float) -> torch.optim.Optimizer:
    """The optimizer of that name; vectors, IA3's factors among them, and scalars are not decayed.

    Args:
        name: `adamw` (arXiv:1711.05101); `muon` (https://kellerjordan.github.io/posts/muon/) for the matrices
            of the layers, scaled as in arXiv:2502.16982 so that AdamW's learning rate serves, and AdamW for
            embeddings, heads, norms and biases; `adamw_8bit`, AdamW whose moments are kept in 8 bits
            (arXiv:2110.02861).
        groups: What learns.
        weight_decay: Times the learning rate, taken from a matrix at each step.
    """
    if name != "muon":
        return _adamw(name, _parts(groups, weight_decay))
    hidden = [_subset(group, hidden=True) for group in groups]
    others = [_subset(group, hidden=False) for group in groups]
    matrices = [part for part in _parts(hidden, weight_decay) if part["params"]]
    if not matrices:
        return _adamw("adamw", _parts(groups, weight_decay))
    muon = torch.optim.Muon(matrices, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw")
    rest = [part for part in _parts(others, weight_decay) if part["params"]]
    return Together([muon, *([_adamw("adamw", rest)] if rest else [])])


class Together(torch.optim.Optimizer):
    """Several optimizers that step as one; they share parameter groups and state with it."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        for part in parts:
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put a state back; it makes new groups and a new state, which the parts share again."""
        super().load_state_dict(state_dict)
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of each."""
        for part in self.parts:
            part.step()


def _parts(groups: Sequence[Group], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of the optimizer for each `Group`: what is decayed, and where there is any, what is not."""
    parts = []
    for group in groups:
        matrices = [p for n, p in group.parameters.items() if _is_matrix(n, p)]
        rest = [p for n, p in group.parameters.items() if not _is_matrix(n, p)]
        parts.append({"params": matrices, "lr": group.lr, "peak": group.lr, "weight_decay": weight_decay})
        if rest:
            parts.append({"params": rest, "lr": group.lr, "peak": group.lr, "weight_decay": 0.0})
    return parts


def _subset(group: Group, *, hidden: bool) -> Group:
    """The matrices of the decoder's layers, or everything else."""
    chosen = {n: p for n, p in group.parameters.items() if _is_hidden(n, p) == hidden}
    return replace(group, parameters=chosen)


def _is_hidden(name: str, p: nn.Parameter) -> bool:
    return _is_matrix(name, p) and p.ndim == 2 and layer_of(f".{name}") is not None


def _is_matrix(name: str, p: nn.Parameter) -> bool:
    """Whether it is decayed. IA3's factors are vectors, which peft keeps as [1, d]; 1 changes nothing."""
    return p.ndim >= 2 and "ia3_l" not in name


def _adamw(name: str, parts: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if name == "adamw":
        return torch.optim.AdamW(parts, betas=BETAS, eps=EPS, fused=True)
    import bitsandbytes

    found: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(parts, betas=BETAS, eps=EPS)
    return found


def factor(schedule: str, step: int, total: int, warmup: float) -> float:
    """The learning rate of step `step` (from 0) as a part of its peak.

    Warm-up is linear and its first step is not 0; afterwards `constant` stays, `linear` and `cosine` fall
    towards 0, which is reached at step `total`, one after the last.

    Example:
        >>> [round(factor("linear", s, 4, 0.0), 2) for s in range(5)]
        [1.0, 0.75, 0.5, 0.25, 0.0]
        >>> [round(factor("cosine", s, 4, 0.5), 2) for s in range(5)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    rising = math.ceil(warmup * total)
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    done = (step - rising) / max(1, total - rising)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def set_lr(optimizer: torch.optim.Optimizer, part: float) -> None:
    """Set each group's learning rate to `part` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * part
