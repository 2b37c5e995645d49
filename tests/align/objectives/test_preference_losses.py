"""Every loss on pairs against its formula in plain Python numbers, its gradient, and what it does far out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from align.config.losses import LOSSES
from align.objectives.pairs import Knobs, Pairs
from align.objectives.preference import PREFERENCE_LOSSES
from align.objectives.ranking import RANKING_LOSSES

BETA, SMOOTHING, ALPHA, TAU, GAMMA = 0.7, 0.2, 0.4, 0.3, 0.6
KNOBS = Knobs(beta=BETA, tau=TAU, gamma=GAMMA)
ON_PAIRS = list(PREFERENCE_LOSSES)


@dataclass(frozen=True)
class Numbers:
    """One pair as plain numbers: log-probs, reference log-probs, tokens."""

    c: float
    r: float
    c0: float
    r0: float
    nc: float
    nr: float


def sig(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def score(ratio: float, divergence: str) -> float:
    u = math.exp(ratio)
    if divergence == "forward_kl":
        return -1 / u
    if divergence == "js":
        return math.log(u / (1 + u))
    return -(u**-ALPHA) / ALPHA if divergence == "alpha" else math.log(u)


def margin(x: Numbers, divergence: str) -> float:
    return score(x.c - x.c0, divergence) - score(x.r - x.r0, divergence)


def mean_margin(x: Numbers, divergence: str) -> float:
    start = score(0.0, divergence)  # per token, the constant of f' does not cancel: f'(1) = 0
    chosen, rejected = score(x.c - x.c0, divergence), score(x.r - x.r0, divergence)
    return (chosen - start) / x.nc - (rejected - start) / x.nr


def exo(h: float, e: float) -> float:
    """KL of two coins."""
    return sig(h) * math.log(sig(h) / (1 - e)) + (1 - sig(h)) * math.log((1 - sig(h)) / e)


def discopop(h: float) -> float:
    share = sig(h / TAU)
    return (1 - share) * math.log(1 + math.exp(-h)) + share * math.exp(-h)


def odds(logp: float, tokens: float) -> float:
    p = math.exp(logp / tokens)
    return p / (1 - p)


# Name -> loss of a pair by (pair, divergence, label smoothing).
EXPECTED: dict[str, Callable[[Numbers, str, float], float]] = {
    "sigmoid": lambda x, f, e: (
        -(1 - e) * math.log(sig(BETA * margin(x, f))) - e * math.log(1 - sig(BETA * margin(x, f)))
    ),
    "robust": lambda x, f, e: (
        (
            (1 - e) * math.log(1 + math.exp(-BETA * margin(x, f)))
            - e * math.log(1 + math.exp(BETA * margin(x, f)))
        )
        / (1 - 2 * e)
    ),
    "exo": lambda x, f, e: exo(BETA * margin(x, f), e),
    "hinge": lambda x, f, e: max(0.0, 1 - BETA * margin(x, f)),
    "ipo": lambda x, f, e: (mean_margin(x, f) - 0.5 / BETA) ** 2,
    "sigmoid_norm": lambda x, f, e: math.log(1 + math.exp(-BETA * mean_margin(x, f))),
    "discopop": lambda x, f, e: discopop(BETA * margin(x, f)),
    "nca": lambda x, f, e: (
        -math.log(sig(BETA * (x.c - x.c0)))
        - 0.5 * math.log(sig(BETA * (x.c0 - x.c)))
        - 0.5 * math.log(sig(BETA * (x.r0 - x.r)))
    ),
    "bco": lambda x, f, e: -math.log(sig(BETA * (x.c - x.c0)) * sig(BETA * (x.r0 - x.r))),
    "sppo": lambda x, f, e: (x.c - x.c0 - 0.5 / BETA) ** 2 + (x.r - x.r0 + 0.5 / BETA) ** 2,
    "apo_zero": lambda x, f, e: 1 - sig(BETA * (x.c - x.c0)) + sig(BETA * (x.r - x.r0)),
    "apo_down": lambda x, f, e: sig(BETA * (x.c - x.c0)) + 1 - sig(BETA * (x.c - x.c0 - x.r + x.r0)),
    "nll": lambda x, f, e: -x.c / x.nc,
    "cpo": lambda x, f, e: math.log(1 + math.exp(-BETA * (x.c - x.r))) - x.c / x.nc,
    "simpo": lambda x, f, e: math.log(1 + math.exp(-(BETA * x.c / x.nc - BETA * x.r / x.nr - GAMMA))),
    "orpo": lambda x, f, e: -x.c / x.nc - BETA * math.log(sig(math.log(odds(x.c, x.nc) / odds(x.r, x.nr)))),
}


def draw(count: int, seed: int = 0) -> tuple[Pairs, list[Numbers]]:
    """Pairs, as tensors and as numbers."""
    g = torch.Generator().manual_seed(seed)
    logps = [-6 * torch.rand(count, generator=g, dtype=torch.float64) - 0.05 for _ in range(4)]
    tokens = [torch.randint(1, 7, (count,), generator=g) for _ in range(2)]
    numbers = [Numbers(*row) for row in zip(*(x.tolist() for x in [*logps, *tokens]), strict=True)]
    return Pairs(logps[0], logps[1], tokens[0], tokens[1], logps[2], logps[3]), numbers


def knobs_of(name: str, smoothing: float = 0.0, divergence: str = "reverse_kl") -> Knobs:
    """Those of the tests; what a loss does not read is set too, and must not matter."""
    least = 0.05 if name == "exo" else 0.0
    alpha = ALPHA if divergence == "alpha" else None
    return replace(KNOBS, label_smoothing=max(least, smoothing), divergence=divergence, alpha=alpha)  # type: ignore[arg-type]


def test_the_names_are_those_that_recipes_may_use() -> None:
    assert set(ON_PAIRS) == {name for name, trait in LOSSES.items() if not trait.rankings}
    assert set(RANKING_LOSSES) == {name for name, trait in LOSSES.items() if trait.rankings}
    assert set(ON_PAIRS) == {*EXPECTED, "aot"}, "a loss without its formula"


@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "js", "alpha"])
@pytest.mark.parametrize("smoothing", [0.0, SMOOTHING])
@pytest.mark.parametrize("name", list(EXPECTED))
def test_against_plain_numbers(name: str, smoothing: float, divergence: str) -> None:
    pairs, numbers = draw(8)
    knobs = knobs_of(name, smoothing, divergence)
    found = PREFERENCE_LOSSES.get(name)(pairs, knobs)
    read = divergence if LOSSES[name].divergence else "reverse_kl"
    expected = [EXPECTED[name](x, read, knobs.label_smoothing) for x in numbers]
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


# One pair with log-ratios ln 3 and -ln 3 over one and two tokens, beta 1: the difference's sigmoid is 9/10.
BY_HAND = {
    "sigmoid": math.log(10 / 9),
    "robust": math.log(10 / 9),
    "hinge": 0.0,
    "ipo": (1.5 * math.log(3) - 0.5) ** 2,
    "sigmoid_norm": math.log(1 + 3**-1.5),
    "nca": 2 * math.log(4 / 3) + 0.5 * math.log(3),  # sigmoid(ln 3) = 3/4
    "bco": 2 * math.log(4 / 3),
    "sppo": 2 * (math.log(3) - 0.5) ** 2,
    "apo_zero": 1 / 4 + 1 / 4,
    "apo_down": 3 / 4 + 1 / 10,
    "discopop": 0.1 * math.log(10 / 9) + 0.9 / 9,  # at tau = 1 the share is sigmoid itself
    "aot": math.log(10 / 9),
}


@pytest.mark.parametrize("name", list(BY_HAND))
def test_by_hand(name: str) -> None:
    one, three = torch.ones(1, dtype=torch.float64), math.log(3)
    pairs = Pairs(-2 * one, -5 * one, one, 2 * one, (-2 - three) * one, (-5 + three) * one)
    found = PREFERENCE_LOSSES.get(name)(pairs, Knobs(beta=1.0))
    assert found.item() == pytest.approx(BY_HAND[name], abs=1e-12)


def test_at_the_reference_the_value_does_not_depend_on_the_model() -> None:
    pairs, _ = draw(3)
    equal = replace(pairs, ref_chosen=pairs.policy_chosen, ref_rejected=pairs.policy_rejected)
    ln2 = math.log(2)
    known = {
        "sigmoid": ln2, "robust": ln2, "hinge": 1.0, "ipo": 0.25 / BETA**2, "sigmoid_norm": ln2, "aot": ln2,
        "exo": -ln2 - 0.5 * math.log(SMOOTHING * (1 - SMOOTHING)), "discopop": 0.5 * ln2 + 0.5,
        "nca": 2 * ln2, "bco": 2 * ln2, "sppo": 0.5 / BETA**2, "apo_zero": 1.0, "apo_down": 1.0,
    }  # fmt: skip
    assert set(known) == {name for name in ON_PAIRS if LOSSES[name].reference}
    for name, value in known.items():
        found = PREFERENCE_LOSSES.get(name)(equal, knobs_of(name, SMOOTHING))
        assert found.tolist() == pytest.approx([value] * 3), name


def test_aot_compares_sorted_margins() -> None:
    pairs, numbers = draw(5)
    policy = sorted(x.c - x.r for x in numbers)
    ref = sorted(x.c0 - x.r0 for x in numbers)
    for e in (0.0, SMOOTHING):
        expected = [
            -(1 - e) * math.log(sig(BETA * (a - b))) - e * math.log(1 - sig(BETA * (a - b)))
            for a, b in zip(policy, ref, strict=True)
        ]
        found = PREFERENCE_LOSSES.get("aot")(pairs, knobs_of("aot", e))
        assert found.tolist() == pytest.approx(expected)


def cut(pairs: Pairs, part: slice) -> Pairs:
    return Pairs(*(None if x is None else x[part] for x in vars(pairs).values()))


@pytest.mark.parametrize("name", ON_PAIRS)
def test_only_losses_of_a_whole_batch_change_with_the_cut(name: str) -> None:
    pairs, _ = draw(6)
    loss, knobs = PREFERENCE_LOSSES.get(name), knobs_of(name, SMOOTHING)
    whole = loss(pairs, knobs).sum().item()
    parts = sum(loss(cut(pairs, part), knobs).sum().item() for part in (slice(0, 2), slice(2, 6)))
    assert (parts == pytest.approx(whole)) is not LOSSES[name].whole_batch


@pytest.mark.parametrize("name", ON_PAIRS)
def test_a_reference_is_read_where_the_table_says_so(name: str) -> None:
    pairs, _ = draw(2)
    alone = replace(pairs, ref_chosen=None, ref_rejected=None)
    if LOSSES[name].reference:
        with pytest.raises(ValueError, match="reference"):
            PREFERENCE_LOSSES.get(name)(alone, knobs_of(name))
    else:
        assert torch.isfinite(PREFERENCE_LOSSES.get(name)(alone, knobs_of(name))).all()


@pytest.mark.parametrize("name", ON_PAIRS)
def test_smoothing_and_divergence_are_read_where_the_table_says_so(name: str) -> None:
    pairs, _ = draw(4)
    loss = PREFERENCE_LOSSES.get(name)
    for trait, one, other in (
        (LOSSES[name].smoothing, knobs_of(name, 0.1), knobs_of(name, 0.3)),
        (LOSSES[name].divergence, knobs_of(name), knobs_of(name, divergence="js")),
    ):
        assert torch.allclose(loss(pairs, one), loss(pairs, other)) is not trait


def leaves(pairs: Pairs) -> tuple[Tensor, Tensor]:
    return pairs.policy_chosen.requires_grad_(), pairs.policy_rejected.requires_grad_()


@pytest.mark.parametrize("name", ON_PAIRS)
def test_gradients_by_finite_differences(name: str) -> None:
    pairs, _ = draw(3, seed=1)
    for divergence in ("reverse_kl", "forward_kl", "js", "alpha"):
        knobs = knobs_of(name, SMOOTHING, divergence)

        def loss(c: Tensor, r: Tensor, knobs: Knobs = knobs) -> Tensor:
            return PREFERENCE_LOSSES.get(name)(
                replace(pairs, policy_chosen=c, policy_rejected=r), knobs
            ).sum()

        assert torch.autograd.gradcheck(loss, leaves(pairs))


@pytest.mark.parametrize("name", [name for name in ON_PAIRS if name != "apo_down"])
def test_at_the_reference_a_step_downhill_raises_chosen_over_rejected(name: str) -> None:
    pairs, _ = draw(4)
    c, r = leaves(pairs)
    equal = replace(pairs, ref_chosen=c.detach(), ref_rejected=r.detach())
    PREFERENCE_LOSSES.get(name)(equal, knobs_of(name)).sum().backward()
    assert c.grad is not None
    assert (c.grad < 0).all()
    assert r.grad is None if name == "nll" else (r.grad > 0).all()  # type: ignore[union-attr]


def test_apo_down_lowers_both_where_the_chosen_answer_is_far_ahead() -> None:
    one = torch.ones(1, dtype=torch.float64)
    pairs = Pairs(-1 * one, -9 * one, one, one, -2 * one, -2 * one)
    c, r = leaves(pairs)
    PREFERENCE_LOSSES.get("apo_down")(pairs, Knobs(beta=1.0)).sum().backward()
    assert c.grad is not None
    assert c.grad.item() > 0
    assert r.grad is not None
    assert r.grad.item() > 0


@pytest.mark.parametrize("name", ON_PAIRS)
def test_extreme_values_stay_finite(name: str) -> None:
    ends = [-1e4, -100.0, -1e-9, 0.0]
    rows = torch.tensor(list(itertools.product(ends, repeat=4)), dtype=torch.float32)
    c, r = (rows[:, i].clone().requires_grad_() for i in range(2))
    tokens = torch.ones(len(rows))
    for divergence, smoothing in itertools.product(["reverse_kl", "forward_kl", "js", "alpha"], [0.0, 0.4]):
        knobs = replace(knobs_of(name, smoothing, divergence), beta=2.0)
        losses = PREFERENCE_LOSSES.get(name)(Pairs(c, r, tokens, tokens, rows[:, 2], rows[:, 3]), knobs)
        assert torch.isfinite(losses).all(), divergence
        grads = torch.autograd.grad(losses.sum(), (c, r), allow_unused=True)
        assert all(torch.isfinite(grad).all() for grad in grads if grad is not None), divergence
