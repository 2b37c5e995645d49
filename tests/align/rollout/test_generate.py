"""Sampling against `model.generate` on each prompt alone, and against the forward pass."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from align.data.types import Response, TokenRow
from align.engine.batch import pack
from align.models.policy import model_logps
from align.rollout.generate import generate
from align.rollout.sampling import choose, uniforms
from align.rollout.types import Rollout

EOS = 2


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=13, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=EOS, pad_token_id=EOS, bos_token_id=1,
        initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


PROMPTS = [TokenRow(f"p{n}", tuple(range(3, 3 + n)), ()) for n in (1, 7, 3, 9, 2, 5)]


def test_greedy_equals_transformers_on_each_prompt_alone(model: LlamaForCausalLM) -> None:
    got = generate(model, PROMPTS, eos=EOS, max_new_tokens=20, temperature=0.0, seed=0, rows=4)
    for prompt, rollout in zip(PROMPTS, got, strict=True):
        want = model.generate(
            torch.tensor([prompt.prompt]), max_new_tokens=20, do_sample=False, pad_token_id=0
        )
        assert list(rollout.ids) == want[0, len(prompt.prompt) :].tolist()
        assert rollout.id == prompt.id
    assert {r.ended for r in got} == {True, False}, "the test should see both kinds of answers"


def test_a_model_with_learned_positions_counts_from_the_first_real_token() -> None:
    """Rotary positions are relative and forgive a shift by the padding; these do not."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=13, n_positions=32, n_embd=24, n_layer=2, n_head=2, eos_token_id=EOS, bos_token_id=1,
        initializer_range=0.5,
    )  # fmt: skip
    gpt = GPT2LMHeadModel(config).eval()
    got = generate(gpt, PROMPTS, eos=EOS, max_new_tokens=8, temperature=0.0, seed=0)
    for prompt, rollout in zip(PROMPTS, got, strict=True):
        alone = gpt.generate(torch.tensor([prompt.prompt]), max_new_tokens=8, do_sample=False, pad_token_id=0)
        assert list(rollout.ids) == alone[0, len(prompt.prompt) :].tolist()


@torch.no_grad()
def test_each_token_takes_the_draw_of_its_own_place(model: LlamaForCausalLM) -> None:
    got = generate(model, PROMPTS, eos=EOS, max_new_tokens=10, temperature=1.5, seed=4, samples=2, rows=6)
    assert [(r.id, r.sample) for r in got] == [(p.id, k) for p in PROMPTS for k in range(2)]
    for rollout in got:
        draws = uniforms(4, rollout.id, rollout.sample, 10)
        for place, token in enumerate(rollout.ids):
            logits = model(torch.tensor([[*rollout.prompt, *rollout.ids[:place]]])).logits[:, -1]
            assert choose(logits, draws[place : place + 1], 1.5)[0].item() == token


def test_recorded_logps_equal_the_forward_pass(model: LlamaForCausalLM) -> None:
    got = generate(model, PROMPTS, eos=EOS, max_new_tokens=12, temperature=0.7, seed=3, samples=3, rows=6)
    rows = [TokenRow(r.id, r.prompt, (Response(r.ids, (1.0,) * len(r.ids)),)) for r in got]
    logps, _ = model_logps(model, pack(rows), temperature=0.7)
    recorded = torch.tensor([logp for r in got for logp in r.logps])
    torch.testing.assert_close(recorded, logps, rtol=1e-5, atol=1e-5)


def test_a_sample_does_not_depend_on_its_neighbours(model: LlamaForCausalLM) -> None:
    together = generate(
        model, PROMPTS, eos=EOS, max_new_tokens=12, temperature=1.0, seed=5, samples=2, rows=12
    )
    alone = generate(model, PROMPTS[2:3], eos=EOS, max_new_tokens=12, temperature=1.0, seed=5, samples=2)
    assert [r.ids for r in together[4:6]] == [r.ids for r in alone]
    assert together[4].ids != together[5].ids, "samples of one prompt differ"
    other = generate(model, PROMPTS[2:3], eos=EOS, max_new_tokens=12, temperature=1.0, seed=6, samples=2)
    assert [r.ids for r in alone] != [r.ids for r in other]


def test_sampled_frequencies_are_the_softmax() -> None:
    logits = torch.tensor([[1.0, -0.5, 0.3, -20.0]])
    u = torch.rand(20000, generator=torch.Generator().manual_seed(1))
    tokens, logps = choose(logits.expand(20000, 4), u, temperature=0.5)
    want = (logits[0] / 0.5).softmax(-1)
    got = torch.bincount(tokens, minlength=4) / 20000
    torch.testing.assert_close(got, want, rtol=0, atol=0.012)
    torch.testing.assert_close(logps, want.log()[tokens])


def test_extreme_draws_stay_inside_the_vocabulary() -> None:
    logits = torch.tensor([[0.0, 0.0, -1e9], [0.0, 0.0, -1e9]])
    tokens, _ = choose(logits, torch.tensor([0.0, 1.0 - 2**-24]), temperature=1.0)
    assert tokens.tolist() == [0, 1], "a token without probability is never drawn"


def test_a_draw_of_zero_takes_no_token_without_probability() -> None:
    tokens, _ = choose(torch.tensor([[-1e9, 0.0, 0.0]]), torch.tensor([0.0]), temperature=1.0)
    assert tokens.tolist() == [1]


def test_what_rounding_takes_from_the_sum_does_not_go_to_the_last_token() -> None:
    """The float32 probabilities of a large vocabulary add up to a little less or more than 1."""
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = torch.randn(1, 20_000, generator=g)
        logits[0, -1] = -1e9
        tokens, _ = choose(logits, torch.tensor([1.0 - 2**-24]), temperature=1.0)
        assert tokens.item() < 19_999


def test_the_text_of_an_answer_ends_before_eos() -> None:
    whole = Rollout("a", 0, (1,), (4, 5, EOS), (0.0,) * 3, True)
    cut = Rollout("a", 0, (1,), (4, EOS, 5), (0.0,) * 3, False)
    assert (whole.text_ids(EOS), cut.text_ids(EOS)) == ((4, 5), (4, EOS, 5))


def test_uniforms_belong_to_the_row() -> None:
    assert torch.equal(uniforms(1, "a", 0, 4), uniforms(1, "a", 0, 8)[:4])
    assert not torch.equal(uniforms(1, "a", 0, 4), uniforms(1, "a", 1, 4))
    assert not torch.equal(uniforms(1, "a", 0, 4), uniforms(1, "b", 0, 4))
