"""Choosing tokens, by hand and against transformers' processors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from align.config.base import SamplingOptions
from align.rollout.sampling import choose, uniforms

PLAIN = SamplingOptions()


def test_sampled_frequencies_are_the_softmax() -> None:
    logits = torch.tensor([[1.0, -0.5, 0.3, -20.0]])
    u = torch.rand(20000, generator=torch.Generator().manual_seed(1))
    tokens, logps = choose(logits.repeat(20000, 1), u, SamplingOptions(temperature=0.5))
    want = (logits[0] / 0.5).softmax(-1)
    got = torch.bincount(tokens, minlength=4) / 20000
    torch.testing.assert_close(got, want, rtol=0, atol=0.012)
    torch.testing.assert_close(logps, want.log()[tokens])


def test_greedy_takes_the_first_of_the_most_likely_with_its_log_prob_at_temperature_1() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0], [5.0, 1.0, 2.0]])
    tokens, logps = choose(logits.clone(), torch.tensor([0.9, 0.9]), SamplingOptions(temperature=0.0))
    assert tokens.tolist() == [1, 0]
    torch.testing.assert_close(logps, logits.log_softmax(-1)[[0, 1], [1, 0]])


def test_extreme_draws_stay_inside_the_vocabulary() -> None:
    logits = torch.tensor([[0.0, 0.0, -1e9], [0.0, 0.0, -1e9]])
    tokens, _ = choose(logits, torch.tensor([0.0, 1.0 - 2**-24]), PLAIN)
    assert tokens.tolist() == [0, 1], "a token without probability is never drawn"


def test_a_draw_of_zero_takes_no_token_without_probability() -> None:
    tokens, _ = choose(torch.tensor([[-1e9, 0.0, 0.0]]), torch.tensor([0.0]), PLAIN)
    assert tokens.tolist() == [1]


def test_what_rounding_takes_from_the_sum_does_not_go_to_the_last_token() -> None:
    """The float32 probabilities of a large vocabulary add up to a little less or more than 1."""
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = torch.randn(1, 20_000, generator=g)
        logits[0, -1] = -1e9
        tokens, logps = choose(logits, torch.tensor([1.0 - 2**-24]), PLAIN)
        assert tokens.item() < 19_999
        assert torch.isfinite(logps).all()


SETTINGS: list[tuple[dict[str, Any], list[Any]]] = [
    ({"top_k": 3}, [TopKLogitsWarper(3)]),
    ({"top_k": 50}, []),
    ({"top_p": 0.8}, [TopPLogitsWarper(0.8)]),
    ({"top_p": 1e-6}, [TopPLogitsWarper(1e-6)]),
    ({"min_p": 0.2}, [MinPLogitsWarper(0.2)]),
    (
        {"top_k": 6, "top_p": 0.9, "min_p": 0.1},
        [TopKLogitsWarper(6), TopPLogitsWarper(0.9), MinPLogitsWarper(0.1)],
    ),
    ({"top_k": 4, "top_p": 0.7}, [TopKLogitsWarper(4), TopPLogitsWarper(0.7)]),
]


@pytest.mark.parametrize(("given", "warpers"), SETTINGS, ids=[str(given) for given, _ in SETTINGS])
def test_what_is_left_out_is_what_transformers_leaves_out(given: dict[str, Any], warpers: list[Any]) -> None:
    torch.manual_seed(3)
    logits = 2 * torch.randn(5, 12)
    grid = torch.linspace(0, 1 - 1e-6, 4001)
    for row in logits:
        chain = LogitsProcessorList([TemperatureLogitsWarper(1.3), *warpers])
        want = chain(None, row[None].clone())[0].softmax(-1)
        tokens, logps = choose(row.repeat(len(grid), 1), grid, SamplingOptions(temperature=1.3, **given))
        got = torch.bincount(tokens, minlength=12) / len(grid)
        torch.testing.assert_close(got, want, rtol=0, atol=2e-3)
        assert ((got > 0) <= (want > 0)).all()
        torch.testing.assert_close(logps, (row / 1.3).log_softmax(-1)[tokens], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_banned_tokens_are_not_taken_and_count_in_the_log_prob(temperature: float) -> None:
    logits = torch.tensor([[9.0, 1.0, 8.0, 2.0], [9.0, 1.0, 8.0, 2.0], [200.0, 1.0, 150.0, 0.0]])
    banned = torch.tensor([0, 2]), torch.tensor([0, 2])
    sampling = SamplingOptions(temperature=temperature, min_p=0.5 if temperature else 0.0)
    tokens, logps = choose(logits.clone(), torch.tensor([0.5, 0.5, 0.5]), sampling, banned)
    assert tokens.tolist() == [3, 0, 1]
    want = (logits / (temperature or 1)).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logps, want)


def test_uniforms_belong_to_the_row() -> None:
    assert torch.equal(uniforms(1, "a", 0, 4), uniforms(1, "a", 0, 8)[:4])
    assert not torch.equal(uniforms(1, "a", 0, 4), uniforms(1, "a", 1, 4))
    assert not torch.equal(uniforms(1, "a", 0, 4), uniforms(1, "b", 0, 4))
