"""Sampling against `model.generate` on each prompt alone, and against the forward pass."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from families import CONFIGS, build
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from align.config.base import SamplingOptions
from align.data.types import Response, TokenRow
from align.engine import flat
from align.engine.batch import pack
from align.models.policy import model_logps
from align.rollout import padded, slots
from align.rollout.ends import Ends
from align.rollout.generate import generate
from align.rollout.sampling import choose, uniforms
from align.rollout.types import Rollout

EOS = 2
ENDS = Ends((EOS,))
PROMPTS = [TokenRow(f"p{n}", tuple(range(3, 3 + n)), ()) for n in (1, 7, 3, 9, 2, 5)]
ROUTES = ["slots", "padded"]


def tiny(route: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=13, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=EOS, pad_token_id=EOS, bos_token_id=1,
        initializer_range=0.5,
    )  # fmt: skip
    return on_route(LlamaForCausalLM(config).eval(), route)


def on_route(model: Any, route: str) -> Any:
    """Let it be sampled from in slots, or in padded batches."""
    if route == "slots":
        assert flat.prepare(model.base_model)
    return model


@pytest.fixture(params=ROUTES)
def model(request: pytest.FixtureRequest) -> LlamaForCausalLM:
    return tiny(request.param)


def greedy(longest: int, **given: Any) -> SamplingOptions:
    return SamplingOptions(max_new_tokens=longest, temperature=0.0, **given)


def alone(model: Any, prompt: Sequence[int], longest: int, **given: Any) -> list[int]:
    """What transformers generates for one prompt by itself."""
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    told = model.generate(
        ids, attention_mask=mask, max_new_tokens=longest, do_sample=False, pad_token_id=0, **given
    )
    return told[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


def same_as_alone(model: PreTrainedModel, longest: int, **given: Any) -> list[Rollout]:
    got = generate(model, PROMPTS, greedy(longest), ENDS, seed=0, **given)
    for prompt, rollout in zip(PROMPTS, got, strict=True):
        assert list(rollout.ids) == alone(model, prompt.prompt, longest), prompt.id
        assert (rollout.id, rollout.prompt) == (prompt.id, prompt.prompt)
    return got


def test_greedy_equals_transformers_on_each_prompt_alone(model: LlamaForCausalLM) -> None:
    got = same_as_alone(model, 20, slots=4)
    assert {r.end for r in got} == {"eos", "length"}, "the test should see both kinds of answers"
    assert all(r.ended == (r.ids[-1] == EOS) for r in got)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("route", ROUTES)
def test_greedy_equals_transformers_for_every_family(name: str, route: str) -> None:
    same_as_alone(on_route(build(name), route), 24, slots=3)


@pytest.mark.parametrize("name", ["llama", "gpt-neox"])
def test_greedy_equals_transformers_under_an_adapter(name: str) -> None:
    peft = get_peft_model(build(name), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    same_as_alone(on_route(peft.get_base_model(), "slots"), 16, slots=4)


@torch.no_grad()
def test_each_token_takes_the_draw_of_its_own_place(model: LlamaForCausalLM) -> None:
    sampling = SamplingOptions(max_new_tokens=10, temperature=1.5)
    got = generate(model, PROMPTS, sampling, ENDS, seed=4, samples=2, slots=5)
    assert [(r.id, r.sample) for r in got] == [(p.id, k) for p in PROMPTS for k in range(2)]
    for rollout in got:
        draws = uniforms(4, rollout.id, rollout.sample, 10)
        for place, token in enumerate(rollout.ids):
            logits = model(torch.tensor([[*rollout.prompt, *rollout.ids[:place]]])).logits[:, -1]
            assert choose(logits, draws[place : place + 1], sampling)[0].item() == token


@pytest.mark.parametrize("name", CONFIGS)
def test_recorded_logps_equal_the_flat_forward(name: str) -> None:
    model = on_route(build(name), "slots")
    sampling = SamplingOptions(max_new_tokens=12, temperature=0.7, top_k=20, min_new_tokens=3)
    got = generate(model, PROMPTS, sampling, ENDS, seed=3, samples=3, slots=7)
    torch.testing.assert_close(recorded(got), recomputed(model, got, 0.7), rtol=0, atol=1e-5)


def recorded(rollouts: Sequence[Rollout]) -> Tensor:
    return torch.tensor([logp for r in rollouts for logp in r.logps])


@torch.no_grad()
def recomputed(model: PreTrainedModel, rollouts: Sequence[Rollout], temperature: float) -> Tensor:
    rows = [TokenRow(r.id, r.prompt, (Response(r.ids, (1.0,) * len(r.ids)),)) for r in rollouts]
    return model_logps(model, pack(rows), temperature)[0]


def test_bfloat16_is_sampled_too() -> None:
    model = on_route(build("llama").bfloat16(), "slots")
    got = generate(model, PROMPTS, SamplingOptions(max_new_tokens=12), ENDS, seed=3, slots=4)
    torch.testing.assert_close(recorded(got), recomputed(model, got, 1.0), rtol=0, atol=0.1)


@pytest.mark.parametrize("name", ["llama", "mistral-windowed", "gpt2"])
def test_samples_depend_neither_on_slots_nor_on_the_order_of_prompts(name: str) -> None:
    model, sampling = build(name), SamplingOptions(max_new_tokens=14, temperature=1.2)
    want = generate(model, PROMPTS, sampling, ENDS, seed=5, samples=4)  # in padded batches
    on_route(model, "slots")
    shuffled = random.Random(1).sample(PROMPTS, len(PROMPTS))
    for count in (1, 3, 48):
        for rows in (PROMPTS, shuffled):
            got = generate(model, rows, sampling, ENDS, seed=5, samples=4, slots=count)
            assert [(r.id, r.sample) for r in got] == [(p.id, k) for p in rows for k in range(4)]
            found = {(r.id, r.sample): r.ids for r in got}
            assert found == {(r.id, r.sample): r.ids for r in want}
    assert len({r.ids for r in want}) > len(PROMPTS), "samples of one prompt differ"
    assert {r.end for r in want} == {"eos", "length"}
    other = generate(model, PROMPTS, sampling, ENDS, seed=6, samples=4)
    assert [r.ids for r in other] != [r.ids for r in want]


def test_a_prompt_is_computed_once_and_no_step_holds_an_answer_that_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams: list[int] = []
    inner = flat.run

    def counted(body: Any, ids: Tensor, depths: Tensor, how: Any) -> Tensor:
        streams.append(len(ids) if isinstance(how, slots.Step) else -len(ids))
        return inner(body, ids, depths, how)

    monkeypatch.setattr(flat, "run", counted)
    monkeypatch.setattr(slots, "PREFILL", 12)
    model, sampling = tiny("slots"), SamplingOptions(max_new_tokens=14)
    got = generate(model, PROMPTS, sampling, ENDS, seed=5, samples=3, slots=4)
    computed = [-n for n in streams if n < 0]
    assert computed == [9, 12, 5, 1], "9; 7 and 5, 12 tokens; 3 and 2, answers for all slots; 1"
    waiting = [
        len(r.ids) for row in sorted(PROMPTS, key=lambda p: -len(p.prompt)) for r in got if r.id == row.id
    ]
    left: list[int] = []  # tokens to come of the answers in the slots
    steps = []
    while waiting or left:
        while waiting and len(left) < 4:
            left += [count - 1 for count in [waiting.pop(0)] if count > 1]  # the first comes with the prompt
        steps.append(len(left))
        left = [count - 1 for count in left if count > 1]
    assert [n for n in streams if n > 0] == steps, (
        "nothing follows an answer's last token but the next answer"
    )


def test_where_memory_runs_out_the_rest_begins_anew_in_half_as_many_slots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampling = SamplingOptions(max_new_tokens=14)
    want = generate(tiny("slots"), PROMPTS, sampling, ENDS, seed=5, samples=2)
    steps: list[int] = []
    inner = slots.Step

    def small(cache: Any, lengths: Sequence[int], device: Any) -> Any:
        steps.append(cache.slots)
        if cache.slots > 3 and len(steps) > 5:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return inner(cache, lengths, device)

    monkeypatch.setattr(slots, "Step", small)
    got = generate(tiny("slots"), PROMPTS, sampling, ENDS, seed=5, samples=2, slots=12)
    assert [(r.id, r.sample, r.ids, r.end) for r in got] == [(r.id, r.sample, r.ids, r.end) for r in want]
    assert sorted(set(steps)) == [3, 6, 12]


@pytest.mark.parametrize(("message", "count"), [("out of memory", 1), ("shapes do not match", 8)])
def test_what_halving_cannot_mend_is_raised(
    monkeypatch: pytest.MonkeyPatch, message: str, count: int
) -> None:
    def never(*_: Any) -> Any:
        raise RuntimeError(message)

    monkeypatch.setattr(slots, "Step", never)
    with pytest.raises(RuntimeError, match=message):
        generate(tiny("slots"), PROMPTS, greedy(4), ENDS, seed=5, slots=count)


def test_a_least_length_is_that_of_transformers(model: LlamaForCausalLM) -> None:
    short = {r.id for r in generate(model, PROMPTS, greedy(20), ENDS, seed=0) if len(r.ids) < 8}
    assert short, "the test should see answers that would be shorter"
    got = generate(model, PROMPTS, greedy(20, min_new_tokens=7), ENDS, seed=0, slots=4)
    for prompt, rollout in zip(PROMPTS, got, strict=True):
        assert list(rollout.ids) == alone(model, prompt.prompt, 20, min_new_tokens=7)
        assert EOS not in rollout.ids[:7]


def test_any_of_several_ends(model: LlamaForCausalLM) -> None:
    got = generate(model, PROMPTS, greedy(20), Ends((EOS, 5, 9)), seed=0, slots=4)
    for prompt, rollout in zip(PROMPTS, got, strict=True):
        assert list(rollout.ids) == alone(model, prompt.prompt, 20, eos_token_id=[EOS, 5, 9])
        assert rollout.ended == (rollout.ids[-1] in (EOS, 5, 9))


def test_stop_strings_end_answers_with_the_token_that_completes_them(model: LlamaForCausalLM) -> None:
    def decode(ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + i) for i in ids)

    whole = generate(model, PROMPTS, greedy(20), ENDS, seed=0)
    longest = max(range(len(whole)), key=lambda i: len(whole[i].ids))
    stop = decode(whole[longest].ids[2:4])  # two tokens of a greedy answer
    ends = Ends((EOS,), (stop,), decode)
    got = generate(model, PROMPTS, greedy(20), ends, seed=0, slots=4)
    assert got[longest].end == "stop"
    for cut, full in zip(got, whole, strict=True):
        at = decode(full.ids).find(stop)
        assert cut.ids == (full.ids if at < 0 else full.ids[: at + 2])
        assert cut.end == (full.end if at < 0 or (at + 2 == len(full.ids) and full.end == "eos") else "stop")
        if cut.end == "stop":
            assert ends.text(cut) == decode(full.ids)[:at]


def test_no_prompts_no_answers(model: LlamaForCausalLM) -> None:
    assert generate(model, [], greedy(4), ENDS, seed=0) == []


def test_a_model_without_streams_takes_padded_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for name, module in (("slots", slots), ("padded", padded)):
        inner = module.decode
        monkeypatch.setattr(module, "decode", lambda *a, n=name, f=inner: taken.append(n) or f(*a))
    for route in ROUTES:
        generate(tiny(route), PROMPTS, greedy(2), ENDS, seed=0)
    assert taken == ROUTES


def test_the_tokens_of_an_answers_text_end_before_eos() -> None:
    whole = Rollout("a", 0, (1,), (4, 5, EOS), (0.0,) * 3, "eos")
    cut = Rollout("a", 0, (1,), (4, EOS, 5), (0.0,) * 3, "length")
    assert (whole.text_ids(EOS), cut.text_ids(EOS)) == ((4, 5), (4, EOS, 5))
