"""TRL's trainers for sft, reward and dpo, on rows that are tokens already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from benchmarks.rows import Row
from benchmarks.sides.recording import Recording, TrainerSide, conversation_columns, lora, options
from benchmarks.spec import BETA, Spec

LIBRARIES = ("trl", "transformers", "torch", "peft")
# A trainer wants rows when it is built; these are replaced before anything is trained.
PLACEHOLDER = [Row("placeholder", (1, 3), ((4, 5), (6, 5)), ((1.0, 1.0), (1.0, 1.0)), (0, 1))]


class RecordingSft(Recording, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer with `Recording`."""


class RecordingReward(Recording, RewardTrainer):  # type: ignore[misc]
    """RewardTrainer with `Recording`."""


class RecordingDpo(Recording, DPOTrainer):  # type: ignore[misc]
    """DPOTrainer with `Recording`, without its tokenising, which has no switch."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset


def _tokens(spec: Spec) -> Any:
    tokens = AutoTokenizer.from_pretrained(spec.model)
    tokens.pad_token_id = spec.pad
    return tokens


def _sft(spec: Spec) -> TrainerSide:
    model = AutoModelForCausalLM.from_pretrained(spec.model, dtype=torch.float32)
    trainer = RecordingSft(
        model,
        SFTConfig(**options(spec)),
        train_dataset=conversation_columns(PLACEHOLDER),
        processing_class=_tokens(spec),
        peft_config=lora(spec, model),
    )
    return TrainerSide(trainer, spec, conversation_columns, LIBRARIES)


def _pair_columns(rows: Sequence[Row]) -> Dataset:
    """Every pair of a ranking, its prompt in both."""
    return Dataset.from_list(
        [{"chosen_ids": row.whole(i), "rejected_ids": row.whole(j)} for row in rows for i, j in row.pairs]
    )


def _reward(spec: Spec) -> TrainerSide:
    model = AutoModelForSequenceClassification.from_pretrained(
        spec.model, num_labels=1, pad_token_id=spec.pad, dtype=torch.float32
    )
    trainer = RecordingReward(
        model,
        RewardConfig(**options(spec, spec.pairs)),
        train_dataset=_pair_columns(PLACEHOLDER),
        processing_class=_tokens(spec),
        peft_config=lora(spec, model),
    )
    return TrainerSide(trainer, spec, _pair_columns, LIBRARIES)


def _preference_columns(rows: Sequence[Row]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt_ids": list(row.prompt),
                "chosen_ids": list(row.answers[0]),
                "rejected_ids": list(row.answers[1]),
            }
            for row in rows
        ]
    )


class DpoSide(TrainerSide):
    """Computes the reference's log-probs before the clock, where they are cached, by TRL's own means."""

    def prepare(self, rows: Sequence[Row]) -> None:
        """Start weights, rows, reference."""
        super().prepare(rows)
        if self.spec.cached:
            trainer = self.trainer
            trainer.train_dataset = trainer._precompute_ref_logps(
                trainer.train_dataset, "train", self.spec.micro
            )


def _dpo(spec: Spec) -> TrainerSide:
    model = AutoModelForCausalLM.from_pretrained(spec.model, dtype=torch.float32)
    trainer = RecordingDpo(
        model,
        None,  # the reference is a second model of its own, or the adapter switched off
        DPOConfig(beta=BETA, precompute_ref_log_probs=spec.cached, **options(spec)),
        train_dataset=_preference_columns(PLACEHOLDER),
        processing_class=_tokens(spec),
        peft_config=lora(spec, model),
    )
    return DpoSide(trainer, spec, _preference_columns, LIBRARIES)


def open_side(spec: Spec) -> TrainerSide:
    """The side of this module."""
    return {"sft": _sft, "reward": _reward, "dpo": _dpo}[spec.stage](spec)
