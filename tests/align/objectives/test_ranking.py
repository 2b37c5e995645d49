"""Losses on rankings against sums over all permutations, the classic formulas, and hand-made numbers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from align.errors import ConfigError
from align.objectives.ranking import RANKING_LOSSES, bradley_terry, centring, plackett_luce
from align.objectives.reduce import merge


def _all(scores: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(scores, dtype=torch.bool)


def _log_likelihood(scores: list[float], tiers: list[int]) -> float:
    """Log of the summed probability of every full order that respects the tiers."""
    total = 0.0
    for order in itertools.permutations(range(len(scores))):
        if any(tiers[a] > tiers[b] for a, b in itertools.pairwise(order)):
            continue
        strengths = [math.exp(scores[i]) for i in order]
        total += math.prod(w / math.fsum(strengths[i:]) for i, w in enumerate(strengths))
    return math.log(total)


scores_and_tiers = st.integers(2, 6).flatmap(
    lambda k: st.tuples(
        st.lists(st.floats(-10, 10), min_size=k, max_size=k),
        st.lists(st.integers(0, 3), min_size=k, max_size=k),
    )
)


@settings(max_examples=150, deadline=None)
@given(scores_and_tiers)
def test_plackett_luce_is_the_sum_over_all_permutations(case: tuple[list[float], list[int]]) -> None:
    scores, tiers = case
    x = torch.tensor([scores], dtype=torch.float64)
    found = plackett_luce(x, torch.tensor([tiers]), _all(x)).total.item()
    assert found == pytest.approx(-_log_likelihood(scores, tiers), abs=1e-6)


@pytest.mark.parametrize(
    "tiers", [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 1], [1, 1, 0, 0, 0, 0]]
)
@pytest.mark.parametrize("gap", [0.0, 20.0, -20.0])
def test_plackett_luce_at_the_extremes(tiers: list[int], gap: float) -> None:
    for high in itertools.combinations(range(6), 3):
        scores = [gap if i in high else 0.0 for i in range(6)]
        x = torch.tensor([scores], dtype=torch.float64)
        found = plackett_luce(x, torch.tensor([tiers]), _all(x)).total.item()
        assert found == pytest.approx(-_log_likelihood(scores, tiers), abs=1e-6)


@pytest.mark.parametrize(("best", "worst"), [(2, 62), (32, 32), (63, 1)])
def test_plackett_luce_of_equal_scores_counts_orders(best: int, worst: int) -> None:
    x = torch.zeros(1, 64)
    tiers = torch.tensor([[0] * best + [1] * worst])
    # best! worst! of the 64! orders are right.
    expected = math.lgamma(65) - math.lgamma(best + 1) - math.lgamma(worst + 1)
    assert plackett_luce(x, tiers, _all(x)).total.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gap", [100.0, 1000.0])
def test_hopelessly_wrong_ties_keep_their_value_and_gradient(gap: float) -> None:
    x = torch.tensor([[0.0, 0.0, gap]], dtype=torch.float64).requires_grad_()
    found = plackett_luce(x, torch.tensor([[0, 0, 1]]), _all(x))
    found.total.backward()
    # Two orders, each of probability e^-gap e^-gap up to e^-gap.
    assert found.total.item() == pytest.approx(2 * gap - math.log(2), rel=1e-9)
    assert x.grad is not None
    assert x.grad[0].tolist() == pytest.approx([-1.0, -1.0, 2.0])


def test_float32_scores_lose_nothing_in_the_integral() -> None:
    x = 3 * torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    tiers = torch.tensor([[0, 0, 0, 1, 1, 2]])
    for row in x[:, None]:
        exact = plackett_luce(row.double(), tiers, _all(row)).total.item()
        assert plackett_luce(row, tiers, _all(row)).total.item() == pytest.approx(exact, rel=1.2e-7)


def test_without_ties_it_is_the_classic_sum_of_log_softmax() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tiers = torch.stack([torch.randperm(5, generator=torch.Generator().manual_seed(i)) for i in range(4)])
    ranked = x.gather(1, tiers.argsort(dim=1))
    expected = -sum((ranked[:, i:].log_softmax(dim=1)[:, 0]).sum() for i in range(5))
    torch.testing.assert_close(plackett_luce(x, tiers, _all(x)).total, expected, rtol=1e-14, atol=1e-14)


def test_with_two_answers_it_is_bradley_terry() -> None:
    x = 5 * torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tiers = torch.tensor([[0, 1], [1, 0]] * 4)
    one, two = plackett_luce(x, tiers, _all(x)), bradley_terry(x, tiers, _all(x))
    assert one.total.item() == pytest.approx(two.total.item(), rel=1e-15)
    assert merge([one.metrics]) == pytest.approx(merge([two.metrics]))


@pytest.mark.parametrize("loss", [plackett_luce, bradley_terry])
@pytest.mark.parametrize("tiers", [[0, 1, 2, 3], [0, 0, 1, 1], [1, 0, 0, 0], [2, 2, 2, 0]])
def test_gradients(loss, tiers: list[int]) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.tensor([[True] * 4 + [False], [True] * 3 + [False] * 2])
    t = torch.tensor([[*tiers, 0]] * 2)
    assert torch.autograd.gradcheck(lambda s: loss(s, t, mask).total, (x,))


@pytest.mark.parametrize("loss", [plackett_luce, bradley_terry])
@pytest.mark.parametrize("scale", [0.0, 1e3, 1e6])
def test_gradients_are_finite_and_float32_is_accepted(loss, scale: float) -> None:  # type: ignore[no-untyped-def]
    x = (scale * torch.randn(3, 6, generator=torch.Generator().manual_seed(0))).requires_grad_()
    found = loss(x, torch.tensor([[0, 0, 0, 1, 1, 2]] * 3), _all(x))
    found.total.backward()
    assert found.total.dtype == torch.float32
    assert torch.isfinite(found.total)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@settings(max_examples=30, deadline=None)
@given(scores_and_tiers, st.floats(-50, 50), st.randoms())
@pytest.mark.parametrize("loss", [plackett_luce, bradley_terry])
def test_shift_order_and_padding_change_nothing(loss, case, shift: float, random) -> None:  # type: ignore[no-untyped-def]
    scores, tiers = case
    x = torch.tensor([scores], dtype=torch.float64)
    expected = loss(x, torch.tensor([tiers]), _all(x))
    order = list(range(len(scores)))
    random.shuffle(order)
    moved = torch.tensor([[scores[i] + shift for i in order] + [torch.nan]], dtype=torch.float64)
    mask = torch.tensor([[True] * len(scores) + [False]])
    found = loss(moved, torch.tensor([[tiers[i] for i in order] + [-5]]), mask)
    assert found.total.item() == pytest.approx(expected.total.item(), rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("loss", [plackett_luce, bradley_terry])
def test_a_better_order_has_a_smaller_loss(loss) -> None:  # type: ignore[no-untyped-def]
    tiers = torch.tensor([[0, 1, 1, 2]])
    right, wrong = torch.tensor([[3.0, 1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 1.0, 3.0]])
    assert loss(right, tiers, _all(right)).total < loss(wrong, tiers, _all(wrong)).total


@pytest.mark.parametrize("loss", [plackett_luce, bradley_terry])
def test_prompts_without_pairs_add_nothing(loss) -> None:  # type: ignore[no-untyped-def]
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [3.0, 1.0]], requires_grad=True)
    tiers = torch.tensor([[0, 0], [0, 1], [0, 1], [0, 1]])
    mask = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    found = loss(x, tiers, mask)
    found.total.backward()
    assert found.total.item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert x.grad is not None
    assert not x.grad[:3].any()
    # The loss is a mean over all four prompts, accuracy over the one that has a pair.
    assert merge([found.metrics]) == pytest.approx(
        {"loss": found.total.item() / 4, "accuracy": 1.0, "margin": 2.0}
    )


def test_bradley_terry_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0, 3.0], [2.0, 0.5, 0.0]])
    mask = torch.tensor([[True] * 3, [True, True, False]])
    found = bradley_terry(x, torch.tensor([[0, 1, 1], [0, 1, 2]]), mask)
    # Differences 1 and -2 of the first prompt weigh 1/2 each, 1.5 of the second weighs 1.
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2 + math.log(1 + math.exp(-1.5))
    assert found.total.item() == pytest.approx(expected)
    metrics = merge([found.metrics])
    assert metrics == pytest.approx({"loss": expected / 2, "accuracy": 0.75, "margin": (-0.5 + 1.5) / 2})


def test_bradley_terry_on_pairs_is_the_reward_loss_of_trl() -> None:
    g = torch.Generator().manual_seed(3)
    chosen, rejected, quality = (torch.randn(6, generator=g) for _ in range(3))
    x, tiers = torch.stack([chosen, rejected], dim=1), torch.tensor([[0, 1]] * 6)
    torch.testing.assert_close(bradley_terry(x, tiers, _all(x)).total, -F.logsigmoid(chosen - rejected).sum())
    ratings = torch.stack([quality.abs(), torch.zeros(6)], dim=1)
    expected = -F.logsigmoid(chosen - rejected - 0.5 * quality.abs()).sum()
    torch.testing.assert_close(bradley_terry(x, tiers, _all(x), ratings, margin=0.5).total, expected)
    # TRL squares the sum of the pair where `centring` squares its mean.
    torch.testing.assert_close(4 * centring(x, _all(x)).total, (chosen + rejected).square().sum())


def test_a_tie_in_scores_counts_half() -> None:
    x = torch.tensor([[1.0, 1.0, 0.0]])
    metrics = merge([bradley_terry(x, torch.tensor([[0, 1, 2]]), _all(x)).metrics])
    assert metrics["accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)


def test_centring_by_hand() -> None:
    x = torch.tensor([[1.0, 3.0, 99.0], [-1.0, 1.0, 0.0], [5.0, 5.0, 5.0]], requires_grad=True)
    found = centring(x, torch.tensor([[True, True, False], [True, True, True], [False] * 3]))
    found.total.backward()
    assert found.total.item() == 4.0
    assert x.grad is not None
    assert x.grad[0].tolist() == [2.0, 2.0, 0.0]
    assert merge([found.metrics]) == pytest.approx({"centring": 4 / 3})


def test_margins_are_refused_where_they_mean_nothing() -> None:
    x, tiers = torch.zeros(1, 2), torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="no margin"):
        plackett_luce(x, tiers, _all(x), margin=0.5)
    with pytest.raises(ValueError, match="needs ratings"):
        bradley_terry(x, tiers, _all(x), margin=0.5)


def test_registry_names_the_losses() -> None:
    assert RANKING_LOSSES.get("plackett_luce") is plackett_luce
    assert RANKING_LOSSES.get("bradley_terry") is bradley_terry
    with pytest.raises(ConfigError, match="bradley_terry"):
        RANKING_LOSSES.get("bradley_tery")


def test_smoothed_labels_turn_a_part_of_the_pairs_round() -> None:
    scores = torch.tensor([[1.5, 0.25, -1.0]], dtype=torch.float64)
    tiers, ratings = torch.tensor([[0, 1, 1]]), torch.tensor([[2.0, 1.0, 0.0]])

    def log_s(x: float) -> float:
        return -math.log1p(math.exp(-x))

    # Differences 1.25 and 2.5 less half of 1 and of 2.
    want = -sum(0.8 * log_s(d) + 0.2 * log_s(-d) for d in (0.75, 1.5)) / 2
    found = bradley_terry(scores, tiers, _all(scores), ratings, 0.5, label_smoothing=0.2)
    assert found.total.item() == pytest.approx(want, rel=1e-12)
    with pytest.raises(ValueError, match="label_smoothing"):
        plackett_luce(scores, tiers, _all(scores), label_smoothing=0.2)


def test_the_optimum_of_smoothed_labels_is_where_the_odds_are_theirs() -> None:
    x = torch.tensor([[math.log(0.9 / 0.1), 0.0]], dtype=torch.float64, requires_grad=True)
    bradley_terry(x, torch.tensor([[0, 1]]), _all(x), label_smoothing=0.1).total.backward()
    assert x.grad is not None
    assert x.grad.abs().max().item() == pytest.approx(0.0, abs=1e-12)
