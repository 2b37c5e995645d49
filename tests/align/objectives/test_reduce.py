"""Sums divided once: no cut of a batch changes a gradient or a metric."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from align.objectives.advantage import gae
from align.objectives.likelihood import nll
from align.objectives.pairs import Knobs, Pairs
from align.objectives.policy import clipped_ratio, log_ratio
from align.objectives.preference import listwise_loss, preference_loss
from align.objectives.ranking import bradley_terry, centring, plackett_luce
from align.objectives.reduce import Loss, Metric, merge
from align.objectives.value import clipped_value

ROWS = 6


def test_merge_divides_sums_once() -> None:
    parts = [
        {"loss": Metric(6.0, 2), "tokens": Metric(5.0)},
        {"loss": Metric(torch.tensor(1.0), torch.tensor(1))},
    ]
    assert merge(parts) == {"loss": 7 / 3, "tokens": 5.0}


def test_a_mean_over_nothing_is_left_out() -> None:
    assert merge([{"loss": Metric(0.0, 0), "tokens": Metric(0.0)}]) == {"tokens": 0.0}
    assert merge([]) == {}


def test_a_part_without_units_does_not_count() -> None:
    assert merge([{"accuracy": Metric(0.0, 0)}, {"accuracy": Metric(1.0, 2)}]) == {"accuracy": 0.5}


def test_metrics_hold_no_graph() -> None:
    x = torch.ones(2, requires_grad=True)
    total = Metric((x * 3).sum()).total
    assert isinstance(total, Tensor)
    assert not total.requires_grad


PAIRS, LISTS = {"sigmoid": 1.0, "ipo": 0.3, "nll": 0.2}, {"plackett_luce": 0.5, "bradley_terry": 1.0}


def _pairs(policy: Tensor, ref: Tensor) -> Pairs:
    tokens = torch.ones(len(policy))
    return Pairs(policy[:, 0], policy[:, 1], 2 * tokens, 3 * tokens, ref[:, 0], ref[:, 1])


def _losses(seed: int) -> dict[str, tuple[Tensor, Callable[[Tensor, slice], Loss]]]:
    """Name -> (input with gradient [ROWS, ...], loss of some of its rows)."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, 4, generator=g, dtype=torch.float64)
    y, z = (torch.randn(ROWS, 4, generator=g, dtype=torch.float64) for _ in range(2))
    mask = torch.arange(4) < torch.randint(0, 5, (ROWS, 1), generator=g)
    tiers = torch.randint(0, 3, (ROWS, 4), generator=g)
    weights = torch.rand(ROWS, 4, generator=g, dtype=torch.float64)
    return {
        "nll": (x, lambda a, p: nll(a[p].flatten(), weights[p].flatten())),
        "plackett_luce": (x, lambda a, p: plackett_luce(a[p], tiers[p], mask[p])),
        "bradley_terry": (x, lambda a, p: bradley_terry(a[p], tiers[p], mask[p], y[p], 0.3)),
        "centring": (x, lambda a, p: centring(a[p], mask[p])),
        "pairs": (x, lambda a, p: preference_loss(_pairs(a[p], y[p]), PAIRS, Knobs(0.5, 0.1))),
        "listwise": (x, lambda a, p: listwise_loss(a[p], y[p], tiers[p], mask[p], LISTS, 0.5)),
        "policy": (x, lambda a, p: clipped_ratio(log_ratio(a[p], y[p]), z[p], weights[p], 0.2)),
        "value": (x, lambda a, p: clipped_value(a[p], y[p], z[p], weights[p], 0.2)),
    }


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.sets(st.integers(1, ROWS - 1)))
@pytest.mark.parametrize("name", list(_losses(0)))
def test_any_cut_into_micro_batches_gives_the_same_gradient_and_metrics(
    name: str, seed: int, cuts: set[int]
) -> None:
    data, loss = _losses(seed)[name]
    edges = [0, *sorted(cuts), ROWS]
    whole, parts = data.clone().requires_grad_(), data.clone().requires_grad_()
    one = loss(whole, slice(0, ROWS))
    one.total.backward()
    many = [loss(parts, slice(a, b)) for a, b in zip(edges, edges[1:], strict=False)]
    for part in many:
        part.total.backward()
    torch.testing.assert_close(whole.grad, parts.grad, rtol=1e-10, atol=1e-12)
    assert merge([p.metrics for p in many]) == pytest.approx(merge([one.metrics]), rel=1e-10, abs=1e-12)


def test_gae_of_a_row_does_not_depend_on_the_others() -> None:
    g = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(3, 5, generator=g), torch.randn(3, 5, generator=g)
    mask = torch.arange(5) < torch.tensor([[5], [2], [3]])
    together = gae(rewards, values, mask, 0.9, 0.8).advantages
    for i in range(3):
        alone = gae(rewards[i : i + 1], values[i : i + 1], mask[i : i + 1], 0.9, 0.8).advantages
        assert torch.equal(alone[0], together[i])
