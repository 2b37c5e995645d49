"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

BETAS = (0.9, 0.999)
EPS = 1e-8


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


def adamw(groups: list[Group], weight_decay: float) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) with one group per `Group`; vectors and scalars are not decayed."""
    parts = []
    for group in groups:
        matrices = [p for p in group.parameters.values() if p.ndim >= 2]
        rest = [p for p in group.parameters.values() if p.ndim < 2]
        parts.append({"params": matrices, "lr": group.lr, "peak": group.lr, "weight_decay": weight_decay})
        if rest:
            parts.append({"params": rest, "lr": group.lr, "peak": group.lr, "weight_decay": 0.0})
    return torch.optim.AdamW(parts, betas=BETAS, eps=EPS, fused=True)


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
