"""Twenty steps of `reward` on pairs, with either engine, against TRL's RewardTrainer."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from trl import RewardConfig, RewardTrainer
from trl_sides import (
    CASES,
    ENGINES,
    FULL,
    HIDDEN,
    LORA,
    PAD,
    SEED,
    Case,
    Trace,
    assert_clips_some,
    assert_close_metrics,
    assert_equal,
    columns,
    context,
    lora,
    our_options,
    ours,
    pairs,
    their_options,
    theirs,
    whole,
)

from align.config.stages import RewardOptions
from align.data.tokenize import Tokenised
from align.data.types import Dataset
from align.stages.reward import Reward

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")


def classifier(base: Path) -> PreTrainedModel:
    """A classifier whose head has std 1/sqrt(D + 1), drawn from the stage's seed."""
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=PAD)
    draws = torch.randn((1, HIDDEN), generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        model.score.weight.copy_(draws / math.sqrt(HIDDEN + 1))
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("case", "margin", "centring"),
    [*((case, 0.0, 0.0) for case in CASES), (CASES[0], 0.5, 0.04), (CASES[3], 0.5, 0.04)],
    ids=str,
)
def test_reward_on_pairs(base: Path, tmp_path: Path, case: Case, margin: float, centring: float) -> None:
    rows, (lr, clip) = pairs(case.rows), (3e-3, 3.0) if case.adapter is FULL else (5e-3, 3.0)

    def mine(engine: str) -> Trace:
        given = {"margin": margin, "centring": centring, **our_options(case, lr, clip, engine)}
        stage = Reward(context(case, RewardOptions(kind="reward", **given), base, tmp_path / engine))
        stage.texts = {split: Dataset("x", []) for split in ("train", "test")}
        stage.tokens = {"train": Tokenised("x", rows), "test": Tokenised("x")}
        return ours(stage, tmp_path / engine)

    tokens = AutoTokenizer.from_pretrained(base)
    tokens.pad_token_id = PAD
    trainer = RewardTrainer(
        classifier(base),
        RewardConfig(
            center_rewards_coefficient=centring / 4 or None,  # TRL squares the sum, Align the mean
            **their_options(case, lr, clip, tmp_path),
        ),
        train_dataset=columns(
            case,
            rows,
            chosen_ids=whole,
            rejected_ids=lambda row: whole(row, 1),
            margin=lambda row: margin * (row.ratings[0] - row.ratings[1]),
        ),
        processing_class=tokens,
        peft_config=lora("SEQ_CLS") if case.adapter is LORA else None,
    )
    other, before = theirs(trainer)
    for trace in map(mine, ENGINES):
        assert_equal(trace, other, before)
        assert_close_metrics(trace, other, ["margin", "accuracy"], 5e-5)
    assert_clips_some(other, clip)
