"""Learning-rate schedules against those of transformers, which TRL's trainers use."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler
from trl_sides import STEPS

from align.training.optim import factor


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("rising", [0, 4])
def test_schedules(schedule: str, rising: int) -> None:
    """Equal from the end of the warm-up on; within it our step s has the rate of their step s + 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    (rate,) = get_scheduler(name, optimizer, rising, STEPS).lr_lambdas
    want = [rate(step + 1 if step < rising else step) for step in range(STEPS)]
    assert [factor(schedule, step, STEPS, rising / STEPS) for step in range(STEPS)] == pytest.approx(want)
