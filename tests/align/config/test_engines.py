"""What `engine=trl` refuses, each by its name."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from align.config.base import StageOptions
from align.config.contradictions import contradictions
from align.config.engines import dpo_arguments
from align.config.schema import Ia3Adapter, LoraAdapter, NoAdapter, TinyModel
from align.config.stages import DpoOptions, KtoOptions, RewardOptions, SftOptions, SupervisedOptions

NONE, TINY = NoAdapter(kind="none"), TinyModel(kind="tiny")
KINDS: dict[str, type[StageOptions]] = {
    "sft": SftOptions,
    "reward": RewardOptions,
    "dpo": DpoOptions,
    "kto": KtoOptions,
}


def found(kind: str, adapter: BaseModel = NONE, **given: object) -> list[str]:
    """Findings as a person sees them."""
    plain = {"kind": kind, "data": "d", "engine": "trl", "max_prompt": 64, "max_answer": 64, **given}
    stages = {"s": KINDS[kind].model_validate(plain)}
    return [f"{f.key}: {f.what}; {f.fix}" for f in contradictions(TINY, adapter, stages)]


@pytest.mark.parametrize(
    ("kind", "given", "line"),
    [
        (
            "sft",
            {"tokens_per_microbatch": 64},
            "stages.s.tokens_per_microbatch: 64 is not read by TRL's SFTTrainer; "
            "try stages.s.engine=align, or stages.s.tokens_per_microbatch=auto",
        ),
        (
            "reward",
            {"loss": "plackett_luce"},
            "stages.s.loss: plackett_luce is not read by TRL's RewardTrainer; "
            "try stages.s.engine=align, or stages.s.loss=bradley_terry",
        ),
        (
            "dpo",
            {"loss": {"sigmoid": 1.0, "simpo": 0.5, "orpo": 1.0}},
            "stages.s.loss: simpo, orpo is not a loss of TRL's DPOTrainer; "
            "try stages.s.loss=sigmoid, or stages.s.engine=align",
        ),
        (
            "dpo",
            {"loss": "plackett_luce"},
            "stages.s.loss: plackett_luce is not a loss of TRL's DPOTrainer; "
            "try stages.s.loss=sigmoid, or stages.s.engine=align",
        ),
        (
            "kto",
            {"loss": "bco"},
            "stages.s.loss: bco is not a loss of TRL's KTOTrainer; "
            "try stages.s.loss=kto, or stages.s.engine=align",
        ),
    ],
)
def test_what_a_trainer_cannot_take_is_one_line(kind: str, given: dict[str, object], line: str) -> None:
    assert found(kind, **given) == [line]
    assert found(kind, **{**given, "engine": "align"}) == []


@pytest.mark.parametrize("dtype", ["auto", "float32", None, "bfloat16"])
def test_trl_computes_in_float32(dtype: str | None) -> None:
    plain = {"kind": "sft", "data": "d", "max_prompt": 64, "max_answer": 64}
    stages = {name: SftOptions.model_validate({**plain, "engine": name}) for name in ("trl", "align")}
    lines = [f"{f.key}: {f.what}; {f.fix}" for f in contradictions(TINY, NONE, stages, dtype)]
    line = "stages.trl.engine: trl computes in float32 here, not in hardware.dtype=bfloat16; "
    fix = "try hardware.dtype=float32, or stages.trl.engine=align"
    assert lines == ([line + fix] if dtype == "bfloat16" else [])


def test_an_adapter_that_a_trainer_would_change() -> None:
    thinned = LoraAdapter(kind="lora", dropout=0.1)
    line = "adapter.dropout: 0.1 is switched off by TRL's DPOTrainer; "
    assert found("dpo", thinned) == [line + "try adapter.dropout=0, or stages.s.engine=align"]
    assert found("sft", thinned) == found("reward", thinned) == []
    assert found("dpo", LoraAdapter(kind="dora")) == []


def test_an_adapter_that_was_never_tried() -> None:
    class Other(BaseModel):
        kind: str = "other"

    line = "stages.s.engine: trl takes the adapters none, lora, dora, not adapter.kind=other; "
    assert found("sft", Other()) == [line + "try stages.s.engine=align, or adapter=lora"]


def test_a_kind_that_has_no_trainer() -> None:
    options = SupervisedOptions.model_validate({"kind": "new", "engine": "trl", "lr": 0.1})
    (finding,) = contradictions(TINY, NONE, {"s": options})
    assert (finding.key, finding.what) == (
        "stages.s.engine",
        "trl is not built for a stage of kind new",
    )


def test_an_option_that_a_stage_gets_later_is_refused_until_it_is_mapped() -> None:
    class Later(SftOptions):
        noise: float = 0.0

    plain = {"kind": "sft", "data": "d", "engine": "trl", "max_prompt": 64, "max_answer": 64}
    stages = {"s": Later.model_validate({**plain, "noise": 5.0}), "t": Later.model_validate(plain)}
    assert [f.key for f in contradictions(TINY, NONE, stages)] == ["stages.s.noise"]


def test_names_of_dpo() -> None:
    options = DpoOptions.model_validate(
        {"kind": "dpo", "data": "d", "loss": {"exo": 1.0, "nll": 0.2}, "label_smoothing": 0.1, "beta": 0.3}
    )
    assert dpo_arguments(options) == {
        "loss_type": ["exo_pair", "sft"],
        "loss_weights": [1.0, 0.2],
        "beta": 0.3,
        "label_smoothing": 0.1,
        "f_divergence_type": "reverse_kl",
        "ld_alpha": None,
        "discopop_tau": 0.05,
        "use_weighting": False,
    }


def test_a_base_in_4_bits_stays_with_align() -> None:
    line = "stages.s.engine: trl is given no base in 4 bits; "
    fix = "try stages.s.engine=align, or adapter.quantize_base=null"
    assert found("sft", LoraAdapter(kind="lora", quantize_base="nf4")) == [line + fix]


COMMON: list[dict[str, object]] = [
    {"seed": 3}, {"lr": 0.1}, {"schedule": "linear"}, {"warmup": 0.2}, {"weight_decay": 0.1},
    {"optimizer": "muon"}, {"max_grad_norm": 2.0}, {"max_prompt": 32}, {"max_answer": 32},
    {"max_drop": 0.5}, {"epochs": 2}, {"batch_size": 4}, {"checkpoint_every": 7},
]  # fmt: skip
TAKEN: dict[str, list[dict[str, object]]] = {
    "sft": [{"train_on": "all"}, {"label_smoothing": 0.1}, {"neftune_alpha": 5.0}, {"loss": "dft"}],
    "reward": [
        {"head_lr": 0.1}, {"margin": 0.5}, {"centring": 0.1}, {"max_answers": 2}, {"head_init": "fit"},
        {"layers": 1},
    ],
    "dpo": [
        {"beta": 0.3}, {"label_smoothing": 0.1}, {"divergence": "js"}, {"divergence": "alpha", "alpha": 0.5},
        {"ld_alpha": 0.5}, {"loss": "discopop", "discopop_tau": 0.5}, {"wpo": True},
        {"loss": {"ipo": 1.0, "nll": 0.5}},
    ],
    "kto": [
        {"beta": 0.3}, {"desirable_weight": 2.0}, {"undesirable_weight": 2.0}, {"loss": "apo_zero_unpaired"},
    ],
}  # fmt: skip
REFUSED: dict[str, list[dict[str, object]]] = {
    "sft": [{"normalise": "sequence"}, {"tokens_per_microbatch": 64}],
    "reward": [{"label_smoothing": 0.1}, {"loss": "ordinal"}, {"tokens_per_microbatch": 64}],
    "dpo": [{"loss": "cpo"}, {"loss": "bradley_terry"}, {"tokens_per_microbatch": 64}],
    "kto": [{"loss": "bco"}, {"tokens_per_microbatch": 64}],
}


@pytest.mark.parametrize("kind", list(TAKEN))
def test_the_options_that_each_trainer_takes_and_those_that_it_does_not(kind: str) -> None:
    for given in (*COMMON, *TAKEN[kind]):
        assert found(kind, **given) == [], given
    for given in REFUSED[kind]:
        (line,) = found(kind, **given)
        (name,) = given
        assert line.startswith(f"stages.s.{name}: ")
        assert "stages.s.engine=align" in line.partition("; try ")[2]


def test_dropout_is_left_alone_by_some_trainers_and_adapters_without_any_pass() -> None:
    thinned, plain = (LoraAdapter(kind="lora", dropout=dropout) for dropout in (0.1, 0.0))
    assert [bool(found(kind, thinned)) for kind in KINDS] == [False, False, True, True]
    assert [found(kind, plain) for kind in KINDS] == [[], [], [], []]
    (line,) = found("dpo", Ia3Adapter(kind="ia3"))
    assert line.startswith("stages.s.engine: trl takes the adapters none, lora, dora, not adapter.kind=ia3")


def test_names_of_every_loss_and_of_what_dpo_is_told() -> None:
    options = DpoOptions.model_validate(
        {
            "kind": "dpo", "data": "d", "loss": {"sppo": 2.0, "nca": 0.5, "bco": 1.0}, "wpo": True,
            "divergence": "alpha", "alpha": 0.3, "ld_alpha": 0.4, "discopop_tau": 0.2,
        }
    )  # fmt: skip
    told = dpo_arguments(options)
    assert (told["loss_type"], told["loss_weights"]) == (
        ["sppo_hard", "nca_pair", "bco_pair"],
        [2.0, 0.5, 1.0],
    )
    assert (told["f_divergence_type"], told["f_alpha_divergence_coef"]) == ("alpha_divergence", 1 - 0.3)
    assert (told["ld_alpha"], told["discopop_tau"], told["use_weighting"]) == (0.4, 0.2, True)


def test_the_way_back_from_an_option_without_a_default_is_null() -> None:
    lines = found("reward", loss="ordinal", scale=[1.0, 2.0])
    assert any("try stages.s.engine=align, or stages.s.scale=null" in line for line in lines)
