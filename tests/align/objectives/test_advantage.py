"""Token rewards, GAE and whitening against plain loops and numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.objectives.advantage import gae, token_rewards, whiten


def _mask(lengths: list[int], width: int) -> torch.Tensor:
    return torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]


def _gae_by_definition(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """Eq. 16 of arXiv:1506.02438 as it stands: a discounted sum of the residuals to come."""
    length = len(rewards)
    following = [*values[1:], 0.0]
    delta = [rewards[t] + gamma * following[t] - values[t] for t in range(length)]
    return [sum((gamma * lam) ** k * delta[t + k] for k in range(length - t)) for t in range(length)]


def test_token_rewards_by_hand() -> None:
    kl = torch.tensor([[0.5, 1.0, 9.0], [2.0, 0.0, -1.0]])
    rewards = token_rewards(torch.tensor([2.0, -1.0]), kl, _mask([2, 3], 3), kl_coef=0.5)
    assert rewards.tolist() == [[-0.25, -0.5 + 2.0, 0.0], [-1.0, 0.0, 0.5 - 1.0]]


def test_the_score_of_an_empty_answer_has_no_place() -> None:
    rewards = token_rewards(torch.tensor([7.0, 1.0]), torch.zeros(2, 2), _mask([0, 1], 2), kl_coef=1.0)
    assert rewards.tolist() == [[0.0, 0.0], [1.0, 0.0]]


def test_gae_by_hand() -> None:
    rewards, values = torch.tensor([[0.0, 1.0, 55.0]]), torch.tensor([[0.5, 0.25, 77.0]])
    result = gae(rewards, values, _mask([2], 3), gamma=0.5, lam=0.5)
    # delta_1 = 1 - 0.25 = 0.75; delta_0 = 0.5 * 0.25 - 0.5 = -0.375; A_0 = -0.375 + 0.25 * 0.75.
    assert result.advantages.tolist() == [[-0.1875, 0.75, 0.0]]
    assert result.returns.tolist() == [[0.3125, 1.0, 0.0]]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    gamma=st.sampled_from([1.0, 0.9, 0.5]),
    lam=st.sampled_from([0.0, 0.95, 1.0]),
)
def test_gae_is_its_definition(seed: int, lengths: list[int], gamma: float, lam: float) -> None:
    g = torch.Generator().manual_seed(seed)
    rewards = torch.randn(len(lengths), 6, generator=g, dtype=torch.float64)
    values = torch.randn(len(lengths), 6, generator=g, dtype=torch.float64)
    mask = _mask(lengths, 6)
    # What stands on padding must have no effect.
    found = gae(rewards.masked_fill(~mask, torch.nan), values.masked_fill(~mask, torch.nan), mask, gamma, lam)
    for i, n in enumerate(lengths):
        expected = _gae_by_definition(rewards[i, :n].tolist(), values[i, :n].tolist(), gamma, lam)
        assert found.advantages[i, :n].tolist() == pytest.approx(expected, abs=1e-12)
        assert found.returns[i, :n].tolist() == pytest.approx(
            [a + v for a, v in zip(expected, values[i, :n].tolist(), strict=True)], abs=1e-12
        )
        assert not found.advantages[i, n:].any()
        assert not found.returns[i, n:].any()


def test_gae_refuses_padding_before_a_token() -> None:
    with pytest.raises(ValueError, match="before its padding"):
        gae(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([[True, False, True]]), 1.0, 1.0)


def test_targets_carry_no_gradient() -> None:
    values = torch.zeros(1, 2, requires_grad=True)
    assert not gae(torch.ones(1, 2), values, _mask([2], 2), 1.0, 1.0).returns.requires_grad


def test_whiten_by_hand() -> None:
    x, mask = torch.tensor([[1.0, 3.0, 99.0], [5.0, 99.0, 99.0]]), _mask([2, 1], 3)
    # Mean 3, variance of the population (4 + 0 + 4) / 3.
    spread = (8 / 3) ** 0.5
    white = whiten(x, mask)
    torch.testing.assert_close(white, torch.tensor([[-2 / spread, 0.0, 0.0], [2 / spread, 0.0, 0.0]]))
    kept = whiten(x, mask, shift_mean=False)
    torch.testing.assert_close(kept, torch.tensor([[3 - 2 / spread, 3.0, 0.0], [3 + 2 / spread, 0.0, 0.0]]))


@pytest.mark.parametrize(("value", "lengths"), [(0.1, [3, 2]), (1e6, [3, 2]), (5.0, [1, 0]), (5.0, [0, 0])])
def test_whiten_of_equal_numbers_one_or_none_is_finite(value: float, lengths: list[int]) -> None:
    mask = _mask(lengths, 3)
    white = whiten(torch.full((2, 3), value), mask)
    assert torch.equal(white, torch.zeros(2, 3))
    kept = whiten(torch.full((2, 3), value), mask, shift_mean=False)
    torch.testing.assert_close(kept, value * mask.float())


def test_whiten_of_many_equal_float32_numbers_is_not_their_rounding() -> None:
    x = torch.full((50, 7), 12345.678)
    assert not whiten(x, torch.ones(50, 7).bool()).any()
