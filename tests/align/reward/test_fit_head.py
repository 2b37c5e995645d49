"""Heads fitted on frozen features against bisection on one feature and numbers worked out by hand."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from align.data.types import Response, TokenRow
from align.engine.batch import Budget, pack
from align.models.reward_model import RewardModel
from align.reward import fit_head as module
from align.reward.fit_head import FOLDS, RIDGES, features, fit_head, fit_values
from align.reward.score import score_rows

Prompts = list[tuple[list[float], list[int]]]  # for each prompt the answers' feature and tiers


def noisy(count: int, seed: int) -> Prompts:
    """A feature that is right about two pairs of three; every third prompt has a tie or a third answer."""
    draw = random.Random(seed)
    prompts: Prompts = []
    for n in range(count):
        high, low = draw.uniform(0, 2), draw.uniform(-2, 0)
        better, worse = (high, low) if draw.random() < 0.67 else (low, high)
        extra = [([], []), ([draw.uniform(-3, 3)], [1]), ([draw.uniform(-3, 3)], [2])][n % 3]
        prompts.append(([better, worse, *extra[0]], [0, 1, *extra[1]]))
    return prompts


def fitted(monkeypatch: pytest.MonkeyPatch, prompts: Prompts, copies: int = 1) -> tuple[float, float]:
    """Ridge and weight of `fit_head` where the one feature is as given."""
    rows = [
        TokenRow(str(n), (n,), tuple(Response((k,), (1.0,)) for k in range(len(f))), tiers=tuple(tiers))
        for n, (f, tiers) in enumerate(prompts)
    ]
    table = {row.prompt: torch.tensor(f)[:, None] for row, (f, _) in zip(rows, prompts, strict=True)}
    monkeypatch.setattr(module, "features", lambda reward, rows, budget: [table[r.prompt] for r in rows])
    heads: list[torch.Tensor] = []
    reward: Any = SimpleNamespace(set_head=heads.append)
    ridge = fit_head(reward, rows * copies, Budget(1))
    return ridge, float(heads[0])


def by_bisection(prompts: Prompts) -> tuple[float, float]:
    """The same with plain numbers; the derivative of the loss rises, so its zero is found by halving."""
    flat = [x for f, _ in prompts for x in f]
    mean = sum(flat) / len(flat)
    spread = math.sqrt(sum((x - mean) ** 2 for x in flat) / (len(flat) - 1))
    ahead = [
        [(f[i] - f[j]) / spread for i in range(len(f)) for j in range(len(f)) if tiers[i] < tiers[j]]
        for f, tiers in prompts
    ]

    def loss(w: float, part: list[list[float]]) -> float:
        return sum(sum(math.log1p(math.exp(-w * d)) for d in one) / len(one) for one in part) / len(part)

    def fit(part: list[list[float]], ridge: float) -> float:
        low, high = -50.0, 50.0
        for _ in range(100):
            w = (low + high) / 2
            slope = sum(sum(-d / (1 + math.exp(w * d)) for d in one) / len(one) for one in part) / len(part)
            low, high = (low, w) if slope + 2 * ridge * w > 0 else (w, high)
        return w

    errors = {
        ridge: sum(
            loss(fit([one for i, one in enumerate(ahead) if i % FOLDS != k], ridge), ahead[k::FOLDS])
            for k in range(FOLDS)
        )
        for ridge in RIDGES
    }
    best = min(errors, key=errors.__getitem__)
    return best, fit(ahead, best) / spread


def test_the_head_and_its_ridge_are_those_of_a_plain_search(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = set()
    for seed in range(6):
        prompts = noisy(15, seed)
        ridge, weight = fitted(monkeypatch, prompts)
        want_ridge, want = by_bisection(prompts)
        assert ridge == want_ridge
        assert weight == pytest.approx(want, rel=1e-2, abs=1e-3)
        chosen.add(ridge)
    assert len(chosen) > 1, "the left-out prompts should have something to say"


def test_the_better_answers_score_higher(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: Prompts = [([1.0 + n, 0.0], [0, 1]) for n in range(10)]
    assert fitted(monkeypatch, prompts)[1] > 0
    assert fitted(monkeypatch, [(f[::-1], tiers) for f, tiers in prompts])[1] < 0


def test_a_row_that_is_repeated_stands_on_one_side_of_a_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(6):
        prompts = noisy(12, seed)
        assert fitted(monkeypatch, prompts, copies=3) == fitted(monkeypatch, prompts)


def test_values_fit_by_hand() -> None:
    """Features 0 and 2, returns 1 and 3: in units of the spread x = -+ 1/sqrt 2, so w = (1/sqrt 2) / 1.5."""
    heads: list[tuple[float, float]] = []
    critic: Any = SimpleNamespace(
        features=lambda batch: batch, set_head=lambda w, b: heads.append((float(w), b))
    )
    batches: Any = [
        (torch.tensor([[0.0]]), torch.tensor([1.0])),
        (torch.tensor([[2.0]]), torch.tensor([3.0])),
    ]
    fit_values(critic, batches)
    # Back in units of the feature w = 1/3, and the line goes through the means (1, 2).
    assert heads == [(pytest.approx(1 / 3), pytest.approx(2 - 1 / 3))]


@torch.no_grad()
def test_features_and_scores_stay_with_their_rows() -> None:
    """Micro-batches put long rows first; what comes back is in the order of the rows."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=31, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, pad_token_id=0,
    )  # fmt: skip
    reward = RewardModel(LlamaForSequenceClassification(config).eval(), None, None)  # type: ignore[arg-type]
    rows = [
        TokenRow(str(n), (3,) * n, tuple(Response((4 + n, *(5,) * k, 2), (1.0,) * (k + 2)) for k in (2, 0)))
        for n in (1, 9, 2, 5)
    ]
    want = [reward.scores(pack([row])) for row in rows]
    budget = Budget(30)
    for found in (
        score_rows(reward, rows, budget),
        [reward.head(f)[:, 0] for f in features(reward, rows, budget)],
    ):
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
