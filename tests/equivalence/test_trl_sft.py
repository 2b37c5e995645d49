"""Twenty steps of `sft`, with either engine, against TRL's SFTTrainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
from trl_sides import (
    CASES,
    ENGINES,
    FULL,
    LORA,
    Case,
    Trace,
    assert_clips_some,
    assert_equal,
    columns,
    context,
    conversations,
    lora,
    our_options,
    ours,
    their_options,
    theirs,
    whole,
)

from align.config.stages import SftOptions
from align.data.tokenize import Tokenised
from align.stages.sft import Sft

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")


LOSSES = [
    ({"loss": "dft", "max_grad_norm": 0.05}, {"loss_type": "dft", "max_grad_norm": 0.05}),
    ({"label_smoothing": 0.1}, {"label_smoothing_factor": 0.1}),
]


@pytest.mark.parametrize(
    ("case", "more", "their_more"),
    [*((case, {}, {}) for case in CASES), *((CASES[0], *names) for names in LOSSES)],
    ids=str,
)
def test_sft(
    base: Path, tmp_path: Path, case: Case, more: dict[str, Any], their_more: dict[str, Any]
) -> None:
    rows, (lr, clip) = conversations(case.rows), (3e-3, 3.0) if case.adapter is FULL else (5e-3, 1.8)

    def mine(engine: str) -> Trace:
        options = SftOptions(kind="sft", **our_options(case, lr, clip, engine) | more)
        stage = Sft(context(case, options, base, tmp_path / engine))
        stage.data, stage.held_out = Tokenised("x", rows), Tokenised("x")
        return ours(stage, tmp_path / engine)

    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(base),
        SFTConfig(completion_only_loss=True, **their_options(case, lr, clip, tmp_path) | their_more),
        train_dataset=columns(
            case,
            rows,
            input_ids=whole,
            completion_mask=lambda row: [0] * len(row.prompt) + [int(w) for w in row.responses[0].weights],
        ),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=lora("CAUSAL_LM") if case.adapter is LORA else None,
    )
    other, before = theirs(trainer)
    for engine in ENGINES:
        assert_equal(mine(engine), other, before)
    assert_clips_some(other, more.get("max_grad_norm", clip))
