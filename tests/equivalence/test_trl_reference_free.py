"""Twenty steps of the losses without a reference against trainers of `trl.experimental`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl_sides import (
    CASES,
    assert_close_metrics,
    assert_equal,
    columns,
    context,
    our_options,
    ours,
    pairs,
    their_options,
    theirs,
    whole,
)

from align.config.stages import DpoOptions
from align.data.tokenize import Tokenised
from align.data.types import TokenRow
from align.stages.dpo import Dpo

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")


class TokenisedORPOTrainer(ORPOTrainer):
    """TRL's trainer without its tokenising."""

    def tokenize_row(self, feature: Any, model: Any = None) -> Any:
        return feature


class TokenisedCPOTrainer(CPOTrainer):
    """TRL's trainer without its tokenising."""

    def tokenize_row(self, feature: Any, model: Any = None) -> Any:
        return feature


def labels(row: TokenRow, k: int) -> list[int]:
    return [-100] * len(row.prompt) + list(row.responses[k].ids)


FREE: dict[str, tuple[dict[str, Any], type, Any, dict[str, Any]]] = {
    "orpo": ({"loss": "orpo", "beta": 0.8}, TokenisedORPOTrainer, ORPOConfig, {"beta": 0.8}),
    "cpo": (
        {"loss": "cpo", "beta": 0.3},
        TokenisedCPOTrainer,
        CPOConfig,
        {"loss_type": "sigmoid", "beta": 0.3},
    ),
    "simpo": (
        {"loss": "simpo", "beta": 2.0, "simpo_gamma": 0.7},
        TokenisedCPOTrainer,
        CPOConfig,
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.7, "cpo_alpha": 0.0},
    ),
}


@pytest.mark.parametrize("name", list(FREE))
def test_losses_without_reference(base: Path, tmp_path: Path, name: str) -> None:
    """TRL's likelihood term is a mean over a batch's tokens, ORPO's prompts too; Align's over each answer's.

    They are one where prompts have one token, which nothing predicts, and chosen answers one length. SimPO
    has no such term and takes any rows.
    """
    mine_named, trainer_type, config, named = FREE[name]
    case, lr, clip = CASES[0], 1e-3, 3.0
    shape = {} if name == "simpo" else {"prompt": (1, 1), "chosen": (7, 7)}
    rows = pairs(case.rows, **shape)
    given = {**our_options(case, lr, clip), **mine_named}
    stage = Dpo(context(case, DpoOptions(kind="dpo", **given), base, tmp_path))
    stage.tokens = {"train": Tokenised("x", rows), "test": Tokenised("x")}
    mine = ours(stage, tmp_path)
    of = {
        f"{which}_{what}": make
        for k, which in enumerate(("chosen", "rejected"))
        for what, make in {
            "input_ids": lambda row, k=k: whole(row, k),
            "attention_mask": lambda row, k=k: [1] * len(whole(row, k)),
            "labels": lambda row, k=k: labels(row, k),
        }.items()
    }
    trainer = trainer_type(
        AutoModelForCausalLM.from_pretrained(base),
        config(**named, **their_options(case, lr, clip, tmp_path)),
        train_dataset=columns(case, rows, **of),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    other, before = theirs(trainer)
    assert_equal(mine, other, before)
    assert_close_metrics(mine, other, ["rewards/chosen", "rewards/rejected", "rewards/margins"], 5e-5)
