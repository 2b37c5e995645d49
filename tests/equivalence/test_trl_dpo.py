"""Twenty steps of `dpo` on pairs, with either engine and each loss that TRL has, against its DPOTrainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl_sides import (
    CASES,
    ENGINES,
    FULL,
    LORA,
    Case,
    Named,
    Trace,
    assert_clips_some,
    assert_close_metrics,
    assert_equal,
    columns,
    context,
    earlier_adapter,
    our_options,
    ours,
    pairs,
    their_options,
    theirs,
)

from align.artifacts.manifest import Manifest, describe
from align.artifacts.store import Artifact
from align.config.engines import TRAINERS
from align.config.stages import DpoOptions
from align.data.tokenize import Tokenised
from align.data.types import TokenRow
from align.stages.dpo import Dpo

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")


class TokenisedDPOTrainer(DPOTrainer):
    """TRL's trainer without its tokenising, which has no switch."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset


SMOOTHED = {"label_smoothing": 0.1}
LOSSES = {
    "hinge": Named(  # slowly: near 0 all is rounding
        {"loss": "hinge", "lr": 3e-4}, {"loss_type": "hinge", "learning_rate": 3e-4}, beta=0.1
    ),
    "ipo": Named({"loss": "ipo"}, {"loss_type": "ipo"}),
    "exo": Named({"loss": "exo", **SMOOTHED}, {"loss_type": "exo_pair", **SMOOTHED}),
    "nca": Named({"loss": "nca"}, {"loss_type": "nca_pair"}),
    "robust": Named({"loss": "robust", **SMOOTHED}, {"loss_type": "robust", **SMOOTHED}),
    "bco": Named({"loss": "bco"}, {"loss_type": "bco_pair"}),
    "sppo": Named({"loss": "sppo"}, {"loss_type": "sppo_hard"}),
    "aot": Named(
        {"loss": "aot", **SMOOTHED, "tokens_per_microbatch": "auto"}, {"loss_type": "aot", **SMOOTHED}
    ),
    "apo_zero": Named({"loss": "apo_zero"}, {"loss_type": "apo_zero"}),
    "apo_down": Named({"loss": "apo_down"}, {"loss_type": "apo_down"}),
    "discopop": Named(
        {"loss": "discopop", "discopop_tau": 0.2}, {"loss_type": "discopop", "discopop_tau": 0.2}
    ),
    "sigmoid_norm": Named({"loss": "sigmoid_norm"}, {"loss_type": "sigmoid_norm"}, beta=3.0),
    "sum": Named(
        {"loss": {"sigmoid": 0.8, "bco": 0.2, "ipo": 0.5}},
        {"loss_type": ["sigmoid", "bco_pair", "ipo"], "loss_weights": [0.8, 0.2, 0.5]},
    ),
    "nll": Named(  # TRL takes the mean over the batch's tokens, Align over each answer's; here they are one
        {"loss": {"sigmoid": 1.0, "nll": 0.5}}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}
    ),
    "forward_kl": Named(  # exp(-log-ratio) is as wrong as the log-ratio is rounded: it must not get far
        {"divergence": "forward_kl", "lr": 2e-4}, {"f_divergence_type": "forward_kl", "learning_rate": 2e-4}
    ),
    "js": Named({"divergence": "js"}, {"f_divergence_type": "js_divergence"}),
    "alpha": Named(  # the paper's alpha is 1 less TRL's coefficient
        {"divergence": "alpha", "alpha": 0.3, "loss": "ipo", "lr": 5e-4},
        {
            "f_divergence_type": "alpha_divergence",
            "f_alpha_divergence_coef": 0.7,
            "loss_type": "ipo",
            "learning_rate": 5e-4,
        },
    ),
    "ld_alpha": Named({"ld_alpha": 0.4}, {"ld_alpha": 0.4}),
    "wpo": Named({"wpo": True}, {"use_weighting": True}),
    "wpo_sum": Named(
        {"wpo": True, "ld_alpha": 0.4, "loss": {"ipo": 0.7, "sppo": 0.2}},
        {
            "use_weighting": True,
            "ld_alpha": 0.4,
            "loss_type": ["ipo", "sppo_hard"],
            "loss_weights": [0.7, 0.2],
        },
    ),
}


def trace_dpo(
    base: Path, folder: Path, case: Case, rows: list[TokenRow], named: Named
) -> tuple[list[Trace], Trace, dict[str, Tensor]]:
    """All sides, ours with each engine.

    An adapter goes on from an earlier one, so that the reference is that one, not the base.
    """
    lr, clip = 1e-3 if case.adapter is FULL else 3e-3, 3.0
    policy, reference = (AutoModelForCausalLM.from_pretrained(base) for _ in range(2))
    start, inputs = "base", {}
    if case.adapter is LORA:
        adapter = earlier_adapter(base, folder / "earlier")
        start, inputs = "sft", {"sft": Artifact(adapter, Manifest("policy", "k", files=describe(adapter)))}
        policy, reference = PeftModel.from_pretrained(policy, str(adapter), is_trainable=True), None

    def mine(engine: str) -> Trace:
        given = {**our_options(case, lr, clip, engine), "beta": named.beta, **named.ours}
        options = DpoOptions(kind="dpo", model=start, **given)
        stage = Dpo(context(case, options, base, folder / engine, inputs))
        stage.tokens = {"train": Tokenised("x", rows), "test": Tokenised("x")}
        return ours(stage, folder / engine)

    trainer = TokenisedDPOTrainer(
        policy,
        reference,
        DPOConfig(**{**their_options(case, lr, clip, folder), "beta": named.beta, **named.theirs}),
        train_dataset=columns(
            case,
            rows,
            prompt_ids=lambda row: list(row.prompt),
            chosen_ids=lambda row: list(row.responses[0].ids),
            rejected_ids=lambda row: list(row.responses[1].ids),
        ),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    return [mine(engine) for engine in ENGINES], *theirs(trainer)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dpo(base: Path, tmp_path: Path, case: Case) -> None:
    both, other, before = trace_dpo(base, tmp_path, case, pairs(case.rows), Named({}, {}))
    for mine in both:
        assert_equal(mine, other, before)
        assert_close_metrics(mine, other, ["rewards/chosen", "rewards/rejected", "rewards/margins"], 5e-5)
        assert_close_metrics(mine, other, ["logps/chosen", "logps/rejected"], 1e-4)
    assert_clips_some(other, 3.0)
    assert other.steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6), "whatever the log-probabilities"
    assert max(abs(step["rewards/margins"]) for step in other.steps) > 0.1, "it left the reference"


@pytest.mark.parametrize("name", list(LOSSES))
def test_losses_on_pairs(base: Path, tmp_path: Path, name: str) -> None:
    rows = pairs(CASES[0].rows, chosen=(7, 7) if name == "nll" else (1, 12))
    both, other, before = trace_dpo(base, tmp_path, CASES[0], rows, LOSSES[name])
    for mine in both:
        assert_equal(mine, other, before)
        assert_close_metrics(mine, other, ["rewards/chosen", "rewards/rejected", "rewards/margins"], 2e-4)
        assert_close_metrics(mine, other, ["logps/chosen", "logps/rejected"], 1e-4)


def test_every_loss_that_trl_takes_is_compared() -> None:
    named = [case.ours.get("loss", "sigmoid") for case in LOSSES.values()]
    compared = {name for loss in named for name in ([loss] if isinstance(loss, str) else loss)}
    assert compared == set(TRAINERS["dpo"].losses)
