"""What `engine=trl` refuses, each by its name."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from align.config.base import StageOptions
from align.config.contradictions import contradictions
from align.config.engines import dpo_arguments
from align.config.schema import LoraAdapter, NoAdapter, TinyModel
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
