"""Advantages of groups against plain loops, and the identities between them."""

from __future__ import annotations

import statistics

import pytest
import torch

from align.objectives.group_advantage import best_of_group, group_normalised, leave_one_out, to_go

REWARDS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_group_normalised_against_a_loop() -> None:
    for row, found, plain in zip(
        REWARDS.tolist(),
        group_normalised(REWARDS).tolist(),
        group_normalised(REWARDS, divide=False).tolist(),
        strict=True,
    ):
        mean, std = statistics.mean(row), statistics.stdev(row)
        assert found == pytest.approx([(r - mean) / (std + 1e-4) for r in row])
        assert plain == pytest.approx([r - mean for r in row])


def test_leave_one_out_against_a_loop() -> None:
    for row, found in zip(REWARDS.tolist(), leave_one_out(REWARDS).tolist(), strict=True):
        assert found == pytest.approx(
            [r - statistics.mean(row[:i] + row[i + 1 :]) for i, r in enumerate(row)]
        )


def test_leave_one_out_of_two_is_the_difference() -> None:
    assert leave_one_out(torch.tensor([[3.0, 1.0]])).tolist() == [[2.0, -2.0]]


def test_leave_one_out_is_dr_grpo_times_k_over_k_minus_1() -> None:
    assert torch.allclose(leave_one_out(REWARDS), group_normalised(REWARDS, divide=False) * 4 / 3)


def test_equal_rewards_teach_nothing() -> None:
    same = torch.full((2, 3), 0.7)
    for advantage in (group_normalised, leave_one_out, best_of_group):
        assert advantage(same).abs().max() < 1e-6
        assert torch.isfinite(advantage(same)).all()


def test_best_of_group_shares_among_equals() -> None:
    found = best_of_group(torch.tensor([[1.0, 3.0, 3.0, 2.0], [-1.0, -2.0, -3.0, -4.0]]))
    assert found.tolist() == [[0.0, 0.5, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0]]


def test_to_go_against_a_loop() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    found = to_go(REWARDS.masked_fill(~mask, torch.nan), mask, 0.9)
    for s in range(5):
        n = int(mask[s].sum())
        want = [sum(0.9 ** (u - t) * REWARDS[s, u].item() for u in range(t, n)) for t in range(n)]
        assert found[s].tolist() == pytest.approx([*want, *[0.0] * (4 - n)])


@pytest.mark.parametrize("rewards", [torch.zeros(3), torch.zeros(3, 1)])
def test_groups_of_one_are_refused(rewards: torch.Tensor) -> None:
    for advantage in (group_normalised, leave_one_out, best_of_group):
        with pytest.raises(ValueError, match="no groups of two"):
            advantage(rewards)
