"""Options that are right one by one and wrong together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from align.config.contradictions import Size, contradictions, size_of
from align.config.schema import (
    HubModel,
    Ia3Adapter,
    LoraAdapter,
    NoAdapter,
    PathModel,
    PrefixTuningAdapter,
    PromptTuningAdapter,
    TinyModel,
)
from align.config.stages import (
    DpoOptions,
    EvaluateOptions,
    KtoOptions,
    PpoOptions,
    ProcessRewardOptions,
    RewardOptions,
    SftOptions,
    StageOptions,
)

TINY = TinyModel(kind="tiny")  # 2 layers, 1024 tokens
NONE = NoAdapter(kind="none")
HUB = HubModel(kind="hub", id="a/b", revision="0" * 40)


def reward(**given: object) -> RewardOptions:
    return RewardOptions.model_validate({"kind": "reward", "data": "r", "max_answer": 64, **given})


def dpo(**given: object) -> DpoOptions:
    return DpoOptions.model_validate({"kind": "dpo", "data": "r", **given})


def kto(**given: object) -> KtoOptions:
    return KtoOptions.model_validate({"kind": "kto", "data": "r", **given})


def ppo(**given: object) -> PpoOptions:
    return PpoOptions.model_validate(
        {"kind": "ppo", "policy": "base", "reward": "r", "prompts": "p", **given}
    )


def keys(model: BaseModel, adapter: BaseModel, stage: StageOptions | None = None) -> list[str]:
    return [finding.key for finding in contradictions(model, adapter, {"s": stage} if stage else {})]


@pytest.mark.parametrize(
    ("hidden", "heads", "right"),
    [(32, 4, True), (32, 16, True), (64, 32, True), (32, 5, False), (32, 32, False), (8, 8, False)],
    ids=["8 each", "2 each", "32 of them", "does not divide", "1 each is odd", "1 each"],
)
def test_heads_cut_hidden_into_even_parts(hidden: int, heads: int, right: bool) -> None:
    model = TinyModel(kind="tiny", hidden=hidden, heads=heads)
    assert keys(model, NONE) == ([] if right else ["model.heads"])


def test_the_nearest_number_of_heads_is_named() -> None:
    (finding,) = contradictions(TinyModel(kind="tiny", hidden=32, heads=5), NONE, {})
    assert finding.fix == "try model.heads=4 with model.hidden=32"


def test_top_layers_of_a_known_model() -> None:
    assert keys(TINY, LoraAdapter(kind="lora", top_layers=2)) == []
    assert keys(TINY, LoraAdapter(kind="lora", top_layers=3)) == ["adapter.top_layers"]
    assert keys(HUB, LoraAdapter(kind="lora", top_layers=300)) == []  # not known before it is opened


def test_layers_of_a_reward_model() -> None:
    assert keys(TINY, NONE, reward(layers=2)) == []
    assert keys(TINY, NONE, reward(layers=3)) == ["stages.s.layers"]


def test_a_cut_below_the_adapter_leaves_nothing_to_train() -> None:
    four = TinyModel(kind="tiny", layers=4)
    top = LoraAdapter(kind="lora", top_layers=2)  # layers 2 and 3, counted from 0
    assert keys(four, top, reward(model="sft", layers=3)) == []
    assert keys(four, top, reward(model="sft", layers=2)) == ["stages.s.layers"]
    assert keys(four, top, reward(model="base", layers=2)) == []  # here the top of what is kept is trained
    assert keys(four, top, reward(model="base", layers=1)) == ["stages.s.layers"]


def test_prompt_and_answer_fit_the_model() -> None:
    sft = {"kind": "sft", "data": "t"}
    assert keys(TINY, NONE, SftOptions.model_validate({**sft, "max_prompt": 512, "max_answer": 512})) == []
    assert keys(TINY, NONE, SftOptions.model_validate({**sft, "max_prompt": 513, "max_answer": 512})) == [
        "stages.s.max_prompt"
    ]
    assert keys(TINY, NONE, ppo(max_prompt=1000, sampling={"max_new_tokens": 24})) == []
    assert keys(TINY, NONE, ppo(max_prompt=1000, sampling={"max_new_tokens": 25})) == ["stages.s.max_prompt"]


def test_the_pair_that_is_named_works() -> None:
    stage = SftOptions(kind="sft", data="t", max_prompt=900, max_answer=900)
    (finding,) = contradictions(TINY, NONE, {"s": stage})
    assert finding.fix == "try stages.s.max_prompt=512 stages.s.max_answer=512"
    assert keys(TINY, NONE, stage.model_copy(update={"max_prompt": 512, "max_answer": 512})) == []


def test_plackett_luce_has_no_margin() -> None:
    assert keys(HUB, NONE, reward(loss="plackett_luce", margin=0.5)) == ["stages.s.margin"]
    assert keys(HUB, NONE, reward(loss="plackett_luce")) == []
    assert keys(HUB, NONE, reward(loss="bradley_terry", margin=0.5)) == []


def test_plackett_luce_is_centred_and_starts_from_a_fitted_head() -> None:
    assert keys(HUB, NONE, reward(loss="plackett_luce", centring=0.1, head_init="fit")) == []


def test_plackett_luce_has_no_label_smoothing() -> None:
    assert keys(HUB, NONE, reward(loss="plackett_luce", label_smoothing=0.1)) == ["stages.s.label_smoothing"]
    assert keys(HUB, NONE, reward(loss="bradley_terry", label_smoothing=0.1)) == []


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"scale": [1.0, 2.0]}, None),
        ({"margin": 0.5}, "0.5 has no place in @.loss=ordinal; try @.loss=bradley_terry, or @.margin=0"),
        ({"centring": 0.1}, "0.1 has no place in @.loss=ordinal; try @.loss=bradley_terry, or @.centring=0"),
        (
            {"head_init": "fit"},
            "fit has no place in @.loss=ordinal; try @.loss=bradley_terry, or @.head_init=normal",
        ),
        (
            {"loss": "bradley_terry", "scale": [1.0, 2.0]},
            "[1.0, 2.0] has no place in @.loss=bradley_terry; try @.loss=ordinal, or @.scale=null",
        ),
    ],
)
def test_what_ratings_read(given: dict[str, object], line: str | None) -> None:
    found = contradictions(HUB, NONE, {"s": reward(**{"loss": "ordinal", **given})})
    assert [f"{one.what}; {one.fix}".replace("stages.s", "@") for one in found] == ([line] if line else [])


def process(**given: object) -> ProcessRewardOptions:
    return ProcessRewardOptions.model_validate(
        {"kind": "process_reward", "data": "r", "max_answer": 64, **given}
    )


def test_what_a_process_reward_model_can_be_read_as() -> None:
    assert keys(HUB, NONE, process(aggregate="product")) == []
    assert keys(HUB, NONE, process(aggregate="mean", loss="mse")) == []
    assert keys(HUB, NONE, process(aggregate="product", loss="mse")) == ["stages.s.aggregate"]
    assert keys(TINY, NONE, process(layers=3)) == ["stages.s.layers"]


def test_a_critic_does_not_start_from_a_head_for_steps() -> None:
    for kind, start, wrong in (
        (process(), "reward", ["stages.p.critic_init"]),
        (process(), "fit", []),
        (reward(), "reward", []),
    ):
        found = contradictions(HUB, NONE, {"r": kind, "p": ppo(critic_init=start)})
        assert [finding.key for finding in found] == wrong


def test_the_levels_of_a_scale_rise() -> None:
    with pytest.raises(ValueError, match="does not rise; give the lowest level first, each once"):
        reward(loss="ordinal", scale=[1.0, 3.0, 3.0])


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, None),
        ({"loss": {"sigmoid": 1, "nll": 0.2}}, None),
        ({"loss": {"plackett_luce": 1, "bradley_terry": 0.5}}, None),
        ({"loss": {"plackett_luce": 1, "nll": 0.2}}, "loss"),
        ({"loss": {"ipo": 1, "bradley_terry": 0.5}}, "loss"),
        ({"loss": "exo"}, "label_smoothing"),
        ({"loss": {"sigmoid": 1, "exo": 1}}, "label_smoothing"),
        ({"loss": "exo", "label_smoothing": 0.01}, None),
        ({"loss": {"sigmoid": 1, "ipo": 1}, "label_smoothing": 0.1}, None),
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing"),
        ({"loss": "plackett_luce", "label_smoothing": 0.1}, "label_smoothing"),
        ({"divergence": "js"}, None),
        ({"divergence": "js", "loss": {"nll": 0.1, "ipo": 1}}, None),
        ({"divergence": "js", "loss": {"nll": 0.1, "nca": 1}}, "divergence"),
        ({"divergence": "forward_kl", "loss": {"sigmoid": 1, "aot": 1}}, "divergence"),
        ({"divergence": "js", "loss": "simpo"}, "divergence"),
        ({"divergence": "js", "loss": "plackett_luce"}, "divergence"),
        ({"divergence": "alpha"}, "alpha"),
        ({"divergence": "alpha", "alpha": 0.5}, None),
        ({"divergence": "js", "alpha": 0.5}, "alpha"),
        ({"ld_alpha": 0.5}, None),
        ({"ld_alpha": 0.5, "loss": "orpo"}, "ld_alpha"),
        ({"ld_alpha": 0.5, "loss": {"sigmoid": 1, "nll": 0.2}}, "ld_alpha"),
        ({"ld_alpha": 0.5, "loss": "bradley_terry"}, "ld_alpha"),
        ({"discopop_tau": 0.5}, "discopop_tau"),
        ({"discopop_tau": 0.5, "loss": "discopop"}, None),
        ({"simpo_gamma": 1.0}, "simpo_gamma"),
        ({"simpo_gamma": 1.0, "loss": {"simpo": 1, "nll": 0.1}}, None),
        ({"max_answers": 4}, "max_answers"),
        ({"max_answers": 4, "loss": "plackett_luce"}, None),
        ({"loss": "aot"}, None),
        ({"loss": {"aot": 1, "nll": 0.1}, "tokens_per_microbatch": 512}, "tokens_per_microbatch"),
        ({"loss": "hinge", "tokens_per_microbatch": 512}, None),
        ({"wpo": True}, None),
        ({"wpo": True, "loss": {"simpo": 1, "nll": 0.1}}, None),
        ({"wpo": True, "loss": {"sigmoid": 1, "aot": 1}}, "wpo"),
        ({"wpo": True, "loss": "plackett_luce"}, "wpo"),
    ],
    ids=str,
)
def test_what_a_preference_loss_reads(given: dict[str, object], wrong: str | None) -> None:
    assert keys(HUB, NONE, dpo(**given)) == ([f"stages.s.{wrong}"] if wrong else [])


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"loss": {"plackett_luce": 1, "nll": 0.2}},
            "plackett_luce reads whole rankings, and nll pairs; name one of them, or try "
            "stages.s.loss={sigmoid: 1, nll: 0.2}",
        ),
        ({"loss": "exo"}, "0 makes exo infinite; try stages.s.label_smoothing=0.001"),
        (
            {"divergence": "js", "loss": {"nll": 0.1, "nca": 1}},
            "js is not defined for stages.s.loss=nca; try stages.s.divergence=reverse_kl, "
            "or stages.s.loss=sigmoid",
        ),
        (
            {"ld_alpha": 0.5, "loss": "orpo"},
            "0.5 has no place in stages.s.loss=orpo; try stages.s.ld_alpha=null",
        ),
        (
            {"wpo": True, "loss": "aot"},
            "true weighs pairs, and stages.s.loss=aot has no loss of a pair by itself; "
            "try stages.s.loss=sigmoid, or stages.s.wpo=false",
        ),
    ],
)
def test_lines_on_preference_losses(given: dict[str, object], line: str) -> None:
    (finding,) = contradictions(HUB, NONE, {"s": dpo(**given)})
    assert f"{finding.what}; {finding.fix}" == line


def test_the_critic_s_warm_up_leaves_iterations_for_the_policy() -> None:
    assert keys(HUB, NONE, ppo(iterations=3, critic_warmup=2)) == []
    assert keys(HUB, NONE, ppo(iterations=3, critic_warmup=3)) == ["stages.s.critic_warmup"]


def test_a_kl_target_needs_a_coefficient_to_adapt() -> None:
    assert keys(HUB, NONE, ppo(kl_target=6.0, kl_coef=0.1)) == []
    assert keys(HUB, NONE, ppo(kl_target=6.0, kl_coef=0.0)) == ["stages.s.kl_target"]


def test_a_policy_is_compared_once() -> None:
    options = EvaluateOptions(kind="evaluate", policies=["a", "b", "a"], reward="r", prompts="p")
    assert keys(HUB, NONE, options) == ["stages.s.policies"]


def test_size_of_a_local_folder(tmp_path: Path) -> None:
    model = PathModel(kind="path", path=str(tmp_path))
    assert size_of(model) == Size()
    (tmp_path / "config.json").write_text(
        json.dumps({"num_hidden_layers": 5, "max_position_embeddings": 512})
    )
    assert size_of(model) == Size(layers=5, context=512)
    (tmp_path / "config.json").write_text(
        json.dumps({"num_hidden_layers": "5", "max_position_embeddings": 5.5})
    )
    assert size_of(model) == Size()
    (tmp_path / "config.json").write_text("[")
    assert size_of(model) == Size()


def test_the_kl_of_kto_needs_another_answer() -> None:
    (finding,) = contradictions(HUB, NONE, {"s": kto(batch_size=1)})
    assert str(finding.key) == "stages.s.batch_size"
    assert finding.fix == "try stages.s.batch_size=16, or stages.s.loss=apo_zero_unpaired"
    for given in (
        {"batch_size": 2},
        {"batch_size": 1, "loss": "bco"},
        {"batch_size": 1, "loss": "apo_zero_unpaired"},
    ):
        assert keys(HUB, NONE, kto(**given)) == []


def test_dft_spreads_no_target() -> None:
    sft = {"kind": "sft", "data": "t", "max_answer": 64}
    assert keys(HUB, NONE, SftOptions.model_validate({**sft, "label_smoothing": 0.1})) == []
    wrong = SftOptions.model_validate({**sft, "label_smoothing": 0.1, "loss": "dft"})
    assert keys(HUB, NONE, wrong) == ["stages.s.label_smoothing"]
    assert keys(HUB, NONE, wrong.model_copy(update={"label_smoothing": 0.0})) == []


def prompts(**given: object) -> PromptTuningAdapter:
    return PromptTuningAdapter.model_validate({"kind": "prompt_tuning", **given})


PREFIX = PrefixTuningAdapter(kind="prefix_tuning")


@pytest.mark.parametrize(
    ("adapter", "found"),
    [
        (LoraAdapter(kind="lora", init="orthogonal", r=4), []),
        (LoraAdapter(kind="lora", init="orthogonal", r=5), ["adapter.r"]),
        (LoraAdapter(kind="lora", init="pissa", r=5), []),
        (Ia3Adapter(kind="ia3"), []),
        (Ia3Adapter(kind="ia3", targets=["a", "b"], feedforward=["b"]), []),
        (Ia3Adapter(kind="ia3", targets=["a"], feedforward=["b"]), ["adapter.feedforward"]),
        (Ia3Adapter(kind="ia3", feedforward=["b"]), ["adapter.feedforward"]),
        (prompts(), []),
        (prompts(init="text", init_text="Be kind."), []),
        (prompts(init="text"), ["adapter.init_text"]),
        (prompts(init_text="Be kind."), ["adapter.init_text"]),
    ],
)
def test_options_of_adapters(adapter: BaseModel, found: list[str]) -> None:
    assert keys(TINY, adapter) == found


def test_the_rank_that_is_named_can_be_halved() -> None:
    (finding,) = contradictions(TINY, LoraAdapter(kind="lora", init="orthogonal", r=5), {})
    assert finding.fix == "try adapter.r=6"


@pytest.mark.parametrize("adapter", [prompts(), PREFIX], ids=["prompt", "prefix"])
def test_fresh_virtual_tokens_have_no_reference(adapter: BaseModel) -> None:
    short = {"max_prompt": 64}
    assert keys(TINY, adapter, dpo(max_answer=64, **short)) == ["stages.s.model"]
    assert keys(TINY, adapter, dpo(max_answer=64, model="sft", **short)) == []
    assert keys(TINY, adapter, dpo(max_answer=64, loss="simpo", **short)) == []  # reads none
    both = dpo(max_answer=64, loss={"sigmoid": 1, "nll": 0.2}, **short)
    assert keys(TINY, adapter, both) == ["stages.s.model"]
    assert keys(TINY, adapter, kto(max_answer=64, **short)) == ["stages.s.model"]
    assert keys(TINY, adapter, kto(max_answer=64, model="sft", **short)) == []
    assert keys(TINY, adapter, ppo(**short)) == ["stages.s.policy"]
    assert keys(TINY, adapter, ppo(policy="sft", **short)) == []
    assert keys(TINY, Ia3Adapter(kind="ia3"), ppo(**short)) == []  # starts as the base


def test_a_prefix_is_not_cut() -> None:
    assert keys(TINY, PREFIX, reward(layers=1, model="base")) == []
    assert keys(TINY, PREFIX, reward(layers=1, model="sft")) == ["stages.s.layers"]
    assert keys(TINY, prompts(), reward(layers=1, model="sft")) == []
    assert keys(TINY, PREFIX, reward(model="sft")) == []


def test_virtual_tokens_take_room_in_the_context() -> None:
    """1024 tokens, of which 24 are virtual."""
    for adapter in (prompts(virtual_tokens=24), PrefixTuningAdapter(kind="prefix_tuning", virtual_tokens=24)):
        assert keys(TINY, adapter, reward(max_prompt=936, max_answer=64)) == []
        (finding,) = contradictions(TINY, adapter, {"s": reward(max_prompt=937, max_answer=64)})
        assert finding.key == "stages.s.max_prompt"
        assert finding.what.endswith("are more than the model's 1000 tokens behind 24 virtual ones")
        assert finding.fix == "try stages.s.max_prompt=500 stages.s.max_answer=500"
    assert keys(TINY, prompts(virtual_tokens=1020), reward()) == ["adapter.virtual_tokens"]
