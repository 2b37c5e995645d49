"""The plain `transformers.Trainer`, for supervised fine-tuning."""

from __future__ import annotations

from typing import Any

import torch
from peft import get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

from benchmarks.sides.recording import Recording, TrainerSide, conversation_columns, lora, options
from benchmarks.spec import Spec


class RecordingTrainer(Recording, Trainer):
    """Trainer with `Recording`."""


def open_side(spec: Spec) -> TrainerSide:
    """The side of this module.

    Raises:
        ValueError: A stage that it does not have.
    """
    if spec.stage != "sft":
        raise ValueError(f"transformers.Trainer has no {spec.stage}")
    tokens = AutoTokenizer.from_pretrained(spec.model)
    tokens.pad_token_id = spec.pad
    model: Any = AutoModelForCausalLM.from_pretrained(spec.model, dtype=torch.float32)
    adapter = lora(spec, model)
    trainer = RecordingTrainer(
        get_peft_model(model, adapter) if adapter else model,
        TrainingArguments(**options(spec)),
        data_collator=DataCollatorForSeq2Seq(tokens),  # pads labels by -100
        processing_class=tokens,
    )
    return TrainerSide(trainer, spec, conversation_columns, ("transformers", "torch", "peft"))
