"""What learns in bfloat16 is stepped in float32, by hand."""

from __future__ import annotations

import torch
from torch import nn

from align.training.masters import masters_of
from align.training.optim import Group


def weight(value: float, dtype: torch.dtype = torch.bfloat16) -> nn.Parameter:
    return nn.Parameter(torch.full((2,), value, dtype=dtype))


def test_float32_is_stepped_as_it_is() -> None:
    p = weight(1.0, torch.float32)
    made = masters_of([Group("g", {"p": p}, 0.1, clip_with="h")])
    assert made.groups[0].parameters["p"] is p
    assert (made.groups[0].clip_with, made.pairs) == ("h", [])


def test_steps_below_the_rounding_of_bfloat16_add_up() -> None:
    """Beside 1 the next smaller number of bfloat16 is 2^-8 away: 100 steps of 2^-13 are three of these."""
    p = weight(1.0)
    made = masters_of([Group("g", {"p": p}, 0.1)])
    master = made.groups[0].parameters["p"]
    optimizer = torch.optim.SGD([master], lr=2.0**-13)
    for _ in range(100):
        optimizer.zero_grad()
        p.sum().backward()
        optimizer.step()
        made.write_back()
    assert p.grad is None
    assert master.detach().tolist() == [1 - 100 * 2.0**-13] * 2
    assert p.detach().tolist() == [1 - 3 * 2.0**-8] * 2


def test_gradients_of_micro_batches_add_up_in_float32() -> None:
    p = weight(0.5)
    master = masters_of([Group("g", {"p": p}, 0.1)]).groups[0].parameters["p"]
    for scale in (256.0, 1.0, 1.0):  # in bfloat16, 256 + 1 is 256
        (scale * p).sum().backward()
    assert master.grad is not None
    assert master.grad.dtype == torch.float32
    assert master.grad.tolist() == [258.0] * 2


def test_what_is_written_into_the_model_meanwhile_is_stepped_from() -> None:
    """A head that is fitted between two steps; rounding alone is no such writing."""
    p = weight(1.0)
    made = masters_of([Group("g", {"p": p}, 0.1)])
    master = made.groups[0].parameters["p"]
    with torch.no_grad():
        master.fill_(1.0 + 2.0**-12)
    made.follow()
    assert master.tolist() == [1.0 + 2.0**-12] * 2
    with torch.no_grad():
        p.fill_(3.0)
    made.follow()
    made.write_back()
    assert (master.tolist(), p.tolist()) == ([3.0] * 2, [3.0] * 2)
