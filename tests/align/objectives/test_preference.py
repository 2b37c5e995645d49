"""Several losses as one: metrics by hand, weights, and whole rankings against sums over permutations."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from align.config.losses import LOSSES, weights_of
from align.errors import ConfigError
from align.objectives.pairs import PREFERENCE_LOSSES, Knobs, Pairs
from align.objectives.preference import listwise_loss, preference_loss
from align.objectives.reduce import Loss, merge


def _pair(reference: bool = True) -> Pairs:
    one = torch.ones(1)
    ref = (-3 * one, -4.5 * one) if reference else (None, None)
    return Pairs(-2 * one, -5 * one, 4 * one, 2 * one, *ref)


def test_metrics_by_hand() -> None:
    loss = preference_loss(_pair(), {"sigmoid": 1.0}, Knobs(beta=0.5))
    # chosen 0.5 (-2 + 3) = 0.5, rejected 0.5 (-5 + 4.5) = -0.25, difference 0.75.
    assert loss.total.item() == pytest.approx(math.log(1 + math.exp(-0.75)))
    assert merge([loss.metrics]) == pytest.approx(
        {
            "loss": math.log(1 + math.exp(-0.75)),
            "rewards/chosen": 0.5,
            "rewards/rejected": -0.25,
            "rewards/accuracies": 1.0,
            "rewards/margins": 0.75,
            "logps/chosen": -2.0,
            "logps/rejected": -5.0,
        }
    )


def test_weighted_losses_add_up() -> None:
    loss = preference_loss(_pair(), {"sigmoid": 2.0, "nll": 0.5, "sppo": 0.1}, Knobs(beta=0.5))
    parts = {"sigmoid": math.log(1 + math.exp(-0.75)), "nll": 2 / 4, "sppo": 0.0 + 0.25}
    assert loss.total.item() == pytest.approx(2 * parts["sigmoid"] + 0.5 * parts["nll"] + 0.1 * parts["sppo"])
    metrics = merge([loss.metrics])
    assert {name: metrics[f"loss/{name}"] for name in parts} == pytest.approx(parts)


@pytest.mark.parametrize(
    ("name", "chosen", "rejected"), [("cpo", -1.0, -2.5), ("simpo", -0.25, -1.25), ("orpo", -0.25, -1.25)]
)
def test_rewards_without_a_reference(name: str, chosen: float, rejected: float) -> None:
    metrics = merge([preference_loss(_pair(reference=False), {name: 1.0}, Knobs(beta=0.5)).metrics])
    found = [metrics[f"rewards/{which}"] for which in ("chosen", "rejected", "margins", "accuracies")]
    assert found == pytest.approx([chosen, rejected, chosen - rejected, 1.0])


def test_one_loss_on_means_tells_the_rewards_of_a_sum_per_token() -> None:
    loss = preference_loss(_pair(reference=False), {"simpo": 1.0, "nll": 0.2}, Knobs(beta=0.5))
    metrics = merge([loss.metrics])
    assert (metrics["rewards/chosen"], metrics["rewards/rejected"]) == (-0.25, -1.25)


def test_at_the_reference_nothing_is_accurate() -> None:
    x = torch.tensor([-3.0, -2.0])
    one = torch.ones(2)
    loss = preference_loss(Pairs(x, x - 1, one, one, x, x - 1), {"sigmoid": 1.0}, Knobs(beta=0.1))
    assert loss.total.item() / 2 == pytest.approx(math.log(2))
    assert merge([loss.metrics])["rewards/accuracies"] == 0.0


def test_no_pairs_is_a_loss_of_0() -> None:
    none = torch.zeros(0)
    loss = preference_loss(Pairs(none, none, none, none, none, none), {"sigmoid": 1.0}, Knobs(beta=0.1))
    assert loss.total.item() == 0.0
    assert merge([loss.metrics]) == {}


def test_an_unknown_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sigmoid'"):
        preference_loss(_pair(), {"sigmoidd": 1.0}, Knobs(beta=0.1))


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ("sigmod", "'sigmod' is not a loss; did you mean sigmoid?"),
        ({"ipo": 1.0, "xyz": 1.0}, "'xyz' is not a loss; choose one of sigmoid, "),
        ({}, "names no loss; give sigmoid"),
    ],
)
def test_names_of_a_recipe(loss: str | dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match="loss") as error:
        weights_of(loss)
    assert str(error.value).startswith(told)


def _listwise(
    rewards: list[list[float]], tiers: list[list[int]], beta: float = 0.5, **weights: float
) -> Loss:
    """Rewards made from log-probs whose reference is not 0; -1 in `tiers` is no answer."""
    ref = -torch.arange(1.0, 1 + len(rewards[0]), dtype=torch.float64).expand(len(rewards), -1)
    policy = ref + torch.tensor(rewards, dtype=torch.float64) / beta
    places = torch.tensor(tiers)
    mask = places >= 0
    return listwise_loss(policy, ref, places.clamp(min=0), mask, weights or {"plackett_luce": 1.0}, beta)


def _probability(rewards: list[float], tiers: list[int]) -> float:
    """Summed probability of every order that respects the tiers, answers drawn one by one by exp(reward)."""
    total = 0.0
    for order in itertools.permutations(range(len(rewards))):
        if [tiers[i] for i in order] == sorted(tiers):
            weights = [math.exp(rewards[i]) for i in order]
            total += math.prod(w / math.fsum(weights[i:]) for i, w in enumerate(weights))
    return total


def test_plackett_luce_over_implicit_rewards() -> None:
    rewards, tiers = [0.3, -1.2, 0.8, 0.1], [0, 2, 1, 1]
    found = _listwise([rewards], [tiers]).total.item()
    assert found == pytest.approx(-math.log(_probability(rewards, tiers)), abs=1e-6)


def test_bradley_terry_over_all_pairs_of_implicit_rewards() -> None:
    found = _listwise([[0.3, -1.2, 0.8]], [[0, 1, 1]], bradley_terry=1.0).total.item()
    pairs = [0.3 + 1.2, 0.3 - 0.8]  # the two worse answers are tied
    assert found == pytest.approx(sum(math.log(1 + math.exp(-gap)) for gap in pairs) / 2)


def test_weighted_losses_on_rankings_add_up() -> None:
    case = [[0.3, -1.2, 0.8]], [[0, 1, 2]]
    both = _listwise(*case, plackett_luce=0.5, bradley_terry=2.0)
    one, two = (_listwise(*case, **{name: 1.0}).total.item() for name in ("plackett_luce", "bradley_terry"))
    assert both.total.item() == pytest.approx(0.5 * one + 2 * two)
    metrics = merge([both.metrics])
    assert metrics["loss"] == pytest.approx(both.total.item())
    assert (metrics["loss/plackett_luce"], metrics["loss/bradley_terry"]) == pytest.approx((one, two))


@pytest.mark.parametrize("name", ["plackett_luce", "bradley_terry"])
def test_with_two_answers_it_is_dpo(name: str) -> None:
    rewards = torch.tensor([[0.4, -0.2], [-1.0, 0.7]], dtype=torch.float64)
    found = _listwise(rewards.tolist(), [[0, 1], [0, 1]], **{name: 1.0})
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2)
    pairs = Pairs(rewards[:, 0] / 0.5, rewards[:, 1] / 0.5, one, one, zero, zero)
    expected = preference_loss(pairs, {"sigmoid": 1.0}, Knobs(beta=0.5))
    torch.testing.assert_close(found.total, expected.total)
    assert found.metrics["rewards/margins"].total == pytest.approx(expected.metrics["rewards/margins"].total)


def test_metrics_of_rankings_by_hand() -> None:
    metrics = merge([_listwise([[0.5, -0.5, 0.5], [1.0, 2.0, 9.0]], [[0, 1, 1], [1, 2, -1]]).metrics])
    # The first has one pair right and one equal, the second its only pair wrong.
    assert metrics["rewards/accuracies"] == pytest.approx((0.75 + 0.0) / 2)
    assert metrics["rewards/margins"] == pytest.approx(((1.0 + 0.0) / 2 - 1.0) / 2)
    # Policy log-probs are -k + 2 x reward: 0, -3, -2 and 1, 2.
    assert metrics["logps/best"] == pytest.approx((0.0 + 1.0) / 2)
    assert metrics["logps/worst"] == pytest.approx((-2.5 + 2.0) / 2)


def test_what_stands_beside_a_ranking_has_no_effect() -> None:
    for stray in (0.0, 50.0):
        found = _listwise([[0.3, -1.2, stray]], [[0, 1, -1]])
        assert found.total.item() == pytest.approx(math.log(1 + math.exp(-1.5)))


@pytest.mark.parametrize("name", ["plackett_luce", "bradley_terry"])
def test_gradients_of_rankings(name: str) -> None:
    g = torch.Generator().manual_seed(0)
    policy = torch.randn(2, 4, generator=g, dtype=torch.float64).requires_grad_()
    ref = torch.randn(2, 4, generator=g, dtype=torch.float64)
    tiers, mask = torch.tensor([[0, 1, 1, 2], [1, 0, 0, 0]]), torch.ones(2, 4, dtype=torch.bool)
    mask[1, 3] = False

    def loss(x: Tensor) -> Tensor:
        return listwise_loss(x, ref, tiers, mask, {name: 1.0}, 0.4).total

    assert torch.autograd.gradcheck(loss, (policy,))


@pytest.mark.parametrize("name", [name for name, trait in LOSSES.items() if not trait.rankings])
def test_the_config_says_of_every_loss_what_it_reads(name: str) -> None:
    """A number that a loss does not read changes nothing; one that it reads does."""
    g = torch.Generator().manual_seed(0)
    logps = [-5 * torch.rand(3, generator=g, dtype=torch.float64) for _ in range(4)]
    tokens = torch.tensor([2.0, 3.0, 4.0]), torch.tensor([5.0, 1.0, 2.0])
    loss, trait = PREFERENCE_LOSSES.get(name), LOSSES[name]

    def found(reference: bool = True, **given: Any) -> Tensor:
        ref = logps[2:] if reference else (None, None)
        return loss(Pairs(*logps[:2], *tokens, *ref), Knobs(**{"beta": 0.5, "label_smoothing": 0.1, **given}))

    plain = found()
    assert torch.equal(found(divergence="js"), plain) == (not trait.divergence)
    assert torch.equal(found(label_smoothing=0.3), plain) == (not trait.smoothing)
    if trait.reference:
        with pytest.raises(ValueError, match="reference"):
            found(reference=False)
    else:
        assert torch.equal(found(reference=False), plain)
