"""What a loss returns, and how the parts of a batch become one number.

A loss is a *sum* over its units (tokens, pairs or prompts), never a mean. The caller adds up the gradients of
the parts and divides by the number of units of the whole batch. A mean of means would weigh a unit by the
size of the part it happened to fall into; sums divided once do not depend on the cut, so any cut of a batch
into micro-batches, any accumulation and any number of processes give the same gradient (up to rounding).

Example:
    Three tokens, cut one way and another; both gradients are those of the mean over three tokens.

    >>> import torch
    >>> from align.objectives.likelihood import nll
    >>> logps, weights = torch.tensor([-1.0, -2.0, -6.0]), torch.ones(3)
    >>> for cut in ([slice(0, 3)], [slice(0, 1), slice(1, 3)]):
    ...     x = logps.clone().requires_grad_()
    ...     parts = [nll(x[part], weights[part]) for part in cut]
    ...     for part in parts:
    ...         (part.total / weights.sum()).backward()
    ...     print(merge([part.metrics for part in parts])["loss"], x.grad.tolist())
    3.0 [-0.3333333432674408, -0.3333333432674408, -0.3333333432674408]
    3.0 [-0.3333333432674408, -0.3333333432674408, -0.3333333432674408]
    >>> sum(part.total.item() / n for part, n in zip(parts, (1, 2))) / 2  # a mean of means is another number
    2.5
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A number to report, kept as a sum so that parts of a batch can be added.

    Attributes:
        total: Sum over the units; a tensor of one element is detached.
        count: Number of units, for a mean; None for a plain sum such as a number of tokens.
    """

    total: float | Tensor
    count: float | Tensor | None = None

    def __post_init__(self) -> None:
        """Cut the graph: a metric that is kept for the log must not keep the activations."""
        if isinstance(self.total, Tensor):
            object.__setattr__(self, "total", self.total.detach())


@dataclass(frozen=True)
class Loss:
    """The result of an objective.

    Attributes:
        total: Scalar with gradient, a SUM over units. The docstring of each loss says what its unit is.
        metrics: Name -> sums, to be merged over micro-batches and processes by `merge`.
    """

    total: Tensor
    metrics: dict[str, Metric]


def merge(parts: Iterable[Mapping[str, Metric]]) -> dict[str, float]:
    """Add up the metrics of the parts of a batch and divide once.

    Args:
        parts: The `metrics` of each part; a name may be missing from some.

    Returns:
        Name -> mean, or the plain sum where the metric has no count. A mean over no units at all is no number
        and is left out.

    Example:
        >>> merge([{"loss": Metric(6.0, 2)}, {"loss": Metric(1.0, 1), "tokens": Metric(5.0)}])
        {'loss': 2.3333333333333335, 'tokens': 5.0}
    """
    totals: dict[str, float] = {}
    counts: dict[str, float] = {}
    for part in parts:
        for name, metric in part.items():
            totals[name] = totals.get(name, 0.0) + float(metric.total)
            if metric.count is not None:
                counts[name] = counts.get(name, 0.0) + float(metric.count)
    means = {name: total / counts[name] for name, total in totals.items() if counts.get(name)}
    return means | {name: total for name, total in totals.items() if name not in counts}
