"""Schedules by hand; AdamW against the update written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from align.training.optim import Group, adamw, clipped_together, factor, set_lr


@pytest.mark.parametrize(
    ("schedule", "step", "want"),
    [
        ("linear", 0, 0.5), ("linear", 1, 1.0), ("linear", 2, 1.0), ("linear", 6, 0.5), ("linear", 9, 0.125),
        ("constant", 0, 0.5), ("constant", 9, 1.0),
        ("cosine", 2, 1.0), ("cosine", 6, 0.5), ("cosine", 4, 0.5 * (1 + math.cos(math.pi / 4))),
    ],
)  # fmt: skip
def test_factor_with_two_warm_up_steps_of_ten(schedule: str, step: int, want: float) -> None:
    assert factor(schedule, step, 10, 0.2) == pytest.approx(want)


def test_first_step_is_adamws_update_written_out() -> None:
    matrix, vector = nn.Parameter(torch.full((2, 2), 3.0)), nn.Parameter(torch.full((2,), 3.0))
    optimizer = adamw([Group("g", {"m": matrix, "v": vector}, 0.1)], weight_decay=0.5)
    set_lr(optimizer, 0.5)
    matrix.grad, vector.grad = torch.full((2, 2), -7.0), torch.full((2,), 2.0)
    optimizer.step()
    # The first Adam step has size lr whatever the gradient; decay takes lr * 0.5 of a matrix and nothing of a
    # vector.
    torch.testing.assert_close(matrix.detach(), torch.full((2, 2), 3.0 * (1 - 0.05 * 0.5) + 0.05))
    torch.testing.assert_close(vector.detach(), torch.full((2,), 3.0 - 0.05))


def test_groups_of_one_model_are_clipped_as_one() -> None:
    a, b, c = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    head = Group("head", {"b": b}, 0.2, clip_with="body")
    groups = [Group("body", {"a": a}, 0.1), head, Group("critic", {"c": c}, 0.1)]
    together = clipped_together(groups)
    assert {name: [id(p) for p in parts] for name, parts in together.items()} == {
        "body": [id(a), id(b)],
        "critic": [id(c)],
    }
