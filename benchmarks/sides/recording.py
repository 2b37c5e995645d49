"""What the peers share: equal settings, the adapter, and a trainer that remembers its numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import nn

from benchmarks.rows import Row
from benchmarks.sides.start import restore
from benchmarks.spec import ALPHA, CLIP, LR, RANK, Spec

SCRATCH = str(Path(tempfile.gettempdir()) / "bench-trainer")  # trainers want a folder; nothing is saved


class Recording:
    """Mixed into a trainer of transformers: remembers loss and gradient norm, and computes nothing for it."""

    parts: list[torch.Tensor]
    losses: list[torch.Tensor]
    norms: list[torch.Tensor]

    def forget(self) -> None:
        """Start anew."""
        self.parts, self.losses, self.norms = [], [], []

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A micro-batch; its loss is already divided for the accumulation."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self.parts.append(loss)
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        norm: torch.Tensor = super()._clip_grad_norm(model)  # type: ignore[misc]
        self.losses.append(torch.stack(self.parts).sum())
        self.norms.append(norm)
        self.parts = []
        return norm


class TrainerSide:
    """A peer built on `transformers.Trainer`: one trainer, given new rows and start weights for each run.

    Args:
        trainer: It mixes `Recording` in.
        spec: How it trains.
        columns: Rows -> the trainer's data set.
        libraries: Names, for the versions.
    """

    def __init__(self, trainer: Any, spec: Spec, columns: Any, libraries: Sequence[str]) -> None:
        self.trainer, self.spec, self.columns, self.libraries = trainer, spec, columns, libraries
        self._let_go()

    def prepare(self, rows: Sequence[Row]) -> None:
        """Start weights and rows."""
        restore(self.trainer.model, Path(self.spec.model))
        self.trainer.forget()
        self.trainer.train_dataset = self.columns(rows)

    def train(self) -> None:
        """One pass."""
        self.trainer.train()

    def finish(self) -> tuple[list[float], list[float]]:
        """Loss and gradient norm of each step."""
        losses, norms = ([float(x) for x in found] for found in (self.trainer.losses, self.trainer.norms))
        self._let_go()
        return losses, norms

    def _let_go(self) -> None:
        """Drop the optimizer, which `train` would go on with."""
        self.trainer.optimizer = self.trainer.lr_scheduler = None
        self.trainer.accelerator.free_memory()
        self.trainer.model.zero_grad(set_to_none=True)
        self.trainer.forget()

    def versions(self) -> dict[str, str]:
        """The peer's libraries."""
        return {name: version(name) for name in self.libraries}


def options(spec: Spec, expand: int = 1) -> dict[str, Any]:
    """Arguments of a trainer: what is equal on all sides, then the setting.

    Args:
        spec: How it trains.
        expand: Units of a row, e.g. the 6 pairs of a ranking of 4.

    Raises:
        ValueError: The step is no multiple of the micro-batch.
    """
    units = spec.batch * expand
    if units % spec.micro:
        raise ValueError(f"a step of {units} cannot be cut into micro-batches of {spec.micro}")
    logs: dict[str, Any] = {"logging_strategy": "no"}
    if spec.logging:
        logs = {"logging_strategy": "steps", "logging_steps": spec.logging}
    return {
        "output_dir": SCRATCH, "use_cpu": True, "bf16": False,
        "train_sampling_strategy": "sequential", "num_train_epochs": 1, "learning_rate": LR,
        "lr_scheduler_type": "constant", "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": CLIP,
        "optim": "adamw_torch_fused", "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8,
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
        "per_device_train_batch_size": spec.micro, "gradient_accumulation_steps": units // spec.micro,
        "gradient_checkpointing": spec.checkpointing, **logs,
    }  # fmt: skip


def lora(spec: Spec, model: Any) -> LoraConfig | None:
    """The adapter that Align would attach: on every linear layer of the decoder's layers."""
    if spec.adapter == "full":
        return None
    layers = model.base_model.layers.named_modules()
    targets = sorted({name.rsplit(".", 1)[-1] for name, part in layers if isinstance(part, nn.Linear)})
    return LoraConfig(
        task_type="SEQ_CLS" if spec.stage == "reward" else "CAUSAL_LM",
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=targets,
        modules_to_save=["score"] if spec.stage == "reward" else None,
    )  # fmt: skip


def conversation_columns(rows: Sequence[Row]) -> Dataset:
    """`input_ids` and `labels`, -100 where nothing is learned."""
    return Dataset.from_list(
        [
            {
                "input_ids": row.whole(0),
                "labels": [-100] * len(row.prompt)
                + [
                    token if weight else -100
                    for token, weight in zip(row.answers[0], row.weights[0], strict=True)
                ],
            }
            for row in rows
        ]
    )
