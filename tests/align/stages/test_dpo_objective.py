"""From the log-probs of tokens to a loss, with a policy whose numbers are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from align.config.stages import DpoOptions
from align.data.types import Response, TokenRow
from align.engine.batch import Budget, TokenBatch, pack
from align.objectives.reduce import merge
from align.stages.dpo_objective import Preference, scored_tokens


class Known:
    """The log-prob of token t is -t / 10, whatever stands before it."""

    def logps(self, batch: TokenBatch) -> tuple[Tensor, None]:
        return -batch.targets / 10, None


def answer(*ids: int, cut: bool = False) -> Response:
    """The last token of an answer that was cut is not scored."""
    return Response(ids, (*(1.0 for _ in ids[1:]), 0.0 if cut else 1.0))


PAIRS = [
    TokenRow("a", (1, 2), (answer(5, 2), answer(4, 3, 6, 2)), tiers=(0, 1)),
    TokenRow("b", (3,), (answer(7, 1, 2, cut=True), answer(9, cut=False)), tiers=(0, 1)),
]
RANKINGS = [
    TokenRow("a", (1, 2), (answer(5, 2), answer(4, 3, 6, 2), answer(8)), tiers=(1, 0, 1)),
    TokenRow("b", (3,), (answer(7, 2), answer(9)), tiers=(0, 2)),
]
POLICY: Any = Known()


def preference(**given: Any) -> Preference:
    return Preference.of(DpoOptions(kind="dpo", data="x", **given))


def test_tokens_that_are_not_scored_do_not_count() -> None:
    batch = pack(PAIRS)
    assert scored_tokens(batch).tolist() == [2, 4, 2, 1]
    logps = preference().sequence_logps(POLICY, batch)
    assert logps.tolist() == pytest.approx([-0.7, -1.5, -0.8, -0.9])


def test_length_desensitised_log_probs() -> None:
    logps = preference(ld_alpha=0.5).sequence_logps(POLICY, pack(PAIRS))
    # a: two tokens are shared; b: one.
    assert logps.tolist() == pytest.approx([-0.7, -0.7 - 0.5 * 0.8, -0.7 - 0.5 * 0.1, -0.9])


@pytest.mark.parametrize("rows", [PAIRS, RANKINGS])
@pytest.mark.parametrize("tokens", [1, 10**6])
def test_the_reference_of_a_row_does_not_depend_on_the_cut(rows: list[TokenRow], tokens: int) -> None:
    found = preference().reference(POLICY, rows, Budget(tokens))
    for row in rows:
        expected = [-sum(r.ids[: sum(map(bool, r.weights))]) / 10 for r in row.responses]
        assert found[row.id].tolist() == pytest.approx(expected)


def test_a_sum_of_losses_on_pairs() -> None:
    batch, ref = pack(PAIRS), torch.tensor([-1.0, -1.0, -1.0, -1.0])
    objective = preference(loss={"sigmoid": 1.0, "ipo": 0.5, "nll": 2.0}, beta=0.5)
    found = objective.loss(objective.sequence_logps(POLICY, batch), ref, batch, PAIRS)
    ratios = [(0.3, -0.5), (0.2, 0.1)]
    sizes = [(2, 4), (2, 1)]
    expected = sum(
        math.log(1 + math.exp(-0.5 * (c - r))) + 0.5 * (c / nc - r / nr - 1) ** 2 + 2 * -(c - 1) / nc
        for (c, r), (nc, nr) in zip(ratios, sizes, strict=True)
    )
    assert found.total.item() == pytest.approx(expected)


def test_every_option_reaches_its_loss() -> None:
    def total(**given: Any) -> float:
        batch, objective = pack(PAIRS), preference(**given)
        ref = torch.tensor([-1.0, -0.5, -2.0, -1.5])
        return objective.loss(objective.sequence_logps(POLICY, batch), ref, batch, PAIRS).total.item()

    for loss, changed in (
        ("sigmoid", {"beta": 0.9}),
        ("sigmoid", {"label_smoothing": 0.3}),
        ("sigmoid", {"divergence": "js"}),
        ("sigmoid", {"ld_alpha": 0.1}),
        ("discopop", {"discopop_tau": 0.9}),
        ("simpo", {"simpo_gamma": 2.0}),
    ):
        assert total(loss=loss) != pytest.approx(total(loss=loss, **changed), rel=1e-6), changed
    one, other = (total(divergence="alpha", alpha=alpha) for alpha in (0.1, 0.9))
    assert one != pytest.approx(other, rel=1e-6)


def test_whole_rankings_with_ties() -> None:
    batch, ref = pack(RANKINGS), torch.zeros(5)
    objective = preference(loss="plackett_luce", beta=1.0)
    found = objective.loss(objective.sequence_logps(POLICY, batch), ref, batch, RANKINGS)
    first = math.exp(-1.5) / (math.exp(-0.7) + math.exp(-1.5) + math.exp(-0.8))  # the rest is tied
    second = 1 / (1 + math.exp(-0.9 + 0.9))
    assert found.total.item() == pytest.approx(-math.log(first) - math.log(second), rel=1e-5)
    # Of a, both pairs are wrong; of b, the rewards are equal.
    assert merge([found.metrics])["rewards/accuracies"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("loss", "reads", "only"),
    [
        ("sigmoid", True, True),
        ("simpo", False, False),
        ({"sigmoid": 1.0, "nll": 0.2}, True, False),
        ({"simpo": 1.0, "nll": 0.2}, False, False),
        ("plackett_luce", True, True),
    ],
)
def test_what_reads_the_reference(loss: Any, reads: bool, only: bool) -> None:
    assert (preference(loss=loss).reads_reference, preference(loss=loss).reads_ratios_only) == (reads, only)


def test_what_must_not_be_cut() -> None:
    assert preference(loss={"sigmoid": 1.0, "aot": 0.1}).whole_batch
    assert not preference(loss={"sigmoid": 1.0, "nca": 0.1}).whole_batch


class Measured(Known):
    """The log of the sum of squares is t / 100 - 1."""

    def logps(self, batch: TokenBatch, measure: str = "entropy") -> tuple[Tensor, Any]:
        assert measure == "log_squares"
        return (-batch.targets / 10).requires_grad_(), batch.targets / 100 - 1


def test_pairs_weigh_what_their_answers_are_likely() -> None:
    batch, ref, policy = pack(PAIRS), torch.tensor([-1.0, -1.0, -1.0, -1.0]), Measured()
    objective = preference(loss={"sigmoid": 1.0, "nll": 2.0}, beta=0.5, wpo=True, ld_alpha=None)
    logps, weights = objective.read(policy, batch)  # type: ignore[arg-type]
    assert logps.requires_grad
    assert weights is not None
    assert not weights.requires_grad
    # Mean over an answer's scored tokens of 1 - 0.11 t; the EOS of an answer that was cut is not among them.
    means = [[1 - 0.11 * 3.5, 1 - 0.11 * 3.75], [1 - 0.11 * 4.0, 1 - 0.11 * 9]]
    want = [math.exp(sum(pair)) for pair in means]
    assert weights.tolist() == pytest.approx(want)
    found = objective.loss(logps, ref, batch, PAIRS, weights)
    ratios, sizes = [(0.3, -0.5), (0.2, 0.1)], [2, 2]
    each = [
        math.log(1 + math.exp(-0.5 * (c - r))) - 2 * (c - 1) / n
        for (c, r), n in zip(ratios, sizes, strict=True)
    ]
    assert found.total.item() == pytest.approx(sum(w * x for w, x in zip(want, each, strict=True)))
    assert merge([found.metrics])["weights"] == pytest.approx(sum(want) / 2)
    assert merge([found.metrics])["loss"] == pytest.approx(found.total.item() / 2)
