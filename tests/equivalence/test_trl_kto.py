"""Twenty steps of `kto`, with either engine, against TRL's KTOTrainer."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig, KTOTrainer
from trl_sides import (
    CASES,
    ENGINES,
    EOS,
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
    their_options,
    theirs,
    words,
)

from align.artifacts.manifest import Manifest, describe
from align.artifacts.store import Artifact
from align.config.stages import KtoOptions
from align.data.tokenize import Tokenised
from align.data.types import Response, TokenRow
from align.stages.kto import Kto

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")


class TokenisedKTOTrainer(KTOTrainer):
    """TRL's trainer with its mismatched answers, but without its tokenising, which has no switch."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        if not self.calculate_KL:
            return dataset

        def mismatched(part: Any) -> Any:
            ids = part["completion_ids"]
            return {**part, "KL_completion_ids": [ids[-1], *ids[:-1]]}

        return dataset.map(mismatched, batched=True, batch_size=args.per_device_train_batch_size)


def labelled(count: int) -> list[TokenRow]:
    """Single answers, two of three desirable; some steps have answers of one label only."""
    draw, rows = random.Random(4), []
    for n in range(count):
        asked, ids = words(draw, 2, 10), (*words(draw, 1, 12), EOS)
        answer = Response(ids, (1.0,) * len(ids))
        rows.append(TokenRow(f"r{n}", asked, (answer,), desirable=draw.random() < 2 / 3))
    return rows


def trace_kto(
    base: Path, folder: Path, case: Case, named: Named, clip: float
) -> tuple[list[Trace], Trace, dict[str, Tensor]]:
    """All sides, ours with each engine; TRL estimates its KL from a micro-batch, so it may not cut a step."""
    lr, rows = 1e-3 if case.adapter is FULL else 3e-3, labelled(case.rows)
    policy, reference = (AutoModelForCausalLM.from_pretrained(base) for _ in range(2))
    start, inputs = "base", {}
    if case.adapter is LORA:
        adapter = earlier_adapter(base, folder / "earlier")
        start, inputs = "sft", {"sft": Artifact(adapter, Manifest("policy", "k", files=describe(adapter)))}
        policy = PeftModel.from_pretrained(policy, str(adapter), is_trainable=True)
        reference = PeftModel.from_pretrained(reference, str(adapter)).merge_and_unload()
    weights = {"desirable_weight": 0.7, "undesirable_weight": 1.6, "beta": named.beta}

    def mine(engine: str) -> Trace:
        given = {**our_options(case, lr, clip, engine), **weights, **named.ours}
        options = KtoOptions(kind="kto", model=start, **given)
        stage = Kto(context(case, options, base, folder / engine, inputs))
        stage.tokens = {"train": Tokenised("x", rows), "test": Tokenised("x")}
        return ours(stage, folder / engine)

    trainer = TokenisedKTOTrainer(
        policy,
        reference,
        KTOConfig(**{**their_options(case, lr, clip, folder), **weights, **named.theirs}),
        train_dataset=columns(
            case,
            rows,
            prompt_ids=lambda row: list(row.prompt),
            completion_ids=lambda row: list(row.responses[0].ids),
            label=lambda row: row.desirable,
        ),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    return [mine(engine) for engine in ENGINES], *theirs(trainer)


METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected")
UNPAIRED = {
    "kto": Named({"loss": "kto"}, {"loss_type": "kto"}),
    "apo_zero_unpaired": Named({"loss": "apo_zero_unpaired"}, {"loss_type": "apo_zero_unpaired"}),
}


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (CASES[0], "kto"),  # we cut, TRL does not, and the KL is that of the whole step
        (Case(FULL, "linear"), "kto"),
        (CASES[2], "kto"),  # the last step has two rows
        (CASES[0], "apo_zero_unpaired"),
        (CASES[2], "apo_zero_unpaired"),
    ],
    ids=str,
)
def test_kto(base: Path, tmp_path: Path, case: Case, name: str) -> None:
    clip = 1.0
    both, other, before = trace_kto(base, tmp_path, case, UNPAIRED[name], clip)
    assert_clips_some(other, clip)
    for mine in both:
        assert_equal(mine, other, before)
        for number, (a, b) in enumerate(zip(mine.steps, other.steps, strict=True), 1):
            for metric in METRICS:
                assert a.get(metric) == pytest.approx(b.get(metric), abs=1e-4), f"{metric} of step {number}"
        if name == "kto":
            assert_close_metrics(mine, other, ["kl"], 2e-4)
            assert max(step["kl"] for step in other.steps) > 0.1, "it left the reference"
        else:
            assert "kl" not in mine.steps[0]
