"""Unit, limit and penalties of scores, against numpy and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from align.reward.shaping import Scale, overlong

FIRST, SECOND = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([11.0, 12.0])


def test_the_reference_unit_is_that_of_the_first_answers() -> None:
    scale = Scale("reference")
    scale.see(FIRST)
    scale.see(SECOND)
    assert scale.unit == (3.0, pytest.approx(2.0))
    assert scale(SECOND).tolist() == pytest.approx([4.0, 4.5])


def test_the_running_unit_is_the_std_of_all_so_far() -> None:
    scale = Scale("running")
    for raw in (FIRST, SECOND, FIRST + 2):
        scale.see(raw)
    everything = np.concatenate([FIRST, SECOND, FIRST + 2])
    assert scale.unit == (0.0, pytest.approx(float(everything.std(ddof=1))))
    assert scale.mean == pytest.approx(float(everything.mean()))


def test_statistics_come_back_from_json_bit_for_bit() -> None:
    scale, again, other = (Scale("running") for _ in range(3))
    scale.see(FIRST / 3)
    again.load(json.loads(json.dumps(scale.state())))
    for one in (scale, again):
        one.see(SECOND / 7)
    assert again.state() == scale.state() != other.state()


def test_without_a_unit_scores_stay_and_may_be_equal() -> None:
    scale = Scale("none", clip=2.0)
    scale.see(torch.ones(4))
    assert not scale.flat
    assert scale(torch.tensor([-9.0, 1.5, 9.0])).tolist() == [-2.0, 1.5, 2.0]


@pytest.mark.parametrize("kind", ["reference", "running"])
def test_equal_scores_have_no_unit(kind: str) -> None:
    scale = Scale(kind)  # type: ignore[arg-type]
    scale.see(torch.full((4,), 1000.0) + torch.tensor([0, 0, 0, 1e-4]))
    assert scale.flat


def test_overlong_by_hand() -> None:
    assert overlong(torch.tensor([1, 12, 13, 16]), 16, 4).tolist() == [0.0, 0.0, 0.25, 1.0]
    assert overlong(torch.tensor([16]), 16, 0).tolist() == [0.0]
