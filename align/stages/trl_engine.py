"""`engine=trl`: TRL's own trainer in the place of Align's loop.

The trainer is given the opened model, the token rows in Align's order, and Align's optimizer and schedule.
The forward (padded, on the stock attention), the losses, their metrics, accumulation and clipping are TRL's
and transformers' own. A micro-batch is one row, unless rows are compared with one another, so that nothing is
padded but a pair, and a step's loss is a mean over its rows whatever the trainer does with a batch.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, TrainerCallback

from align.config import engines
from align.data.order import epoch_order
from align.data.types import TokenRow
from align.engine import flat
from align.errors import DataError, Interrupted, NumericsError, raise_all
from align.models import adapters
from align.models.opened import OpenedModel
from align.stages.base import StageContext
from align.stages.trl_peers import PEERS, Peer, Row
from align.training.optim import Group, build, clipped_together, factor
from align.training.supervised import steps

REFERENCE = "ref"  # what DPOTrainer calls its copy of an adapter


def check_rows(ctx: StageContext[Any], rows: Sequence[TokenRow]) -> None:
    """See that the stage's trainer can take the rows; nothing of TRL is imported.

    Raises:
        DataError: Rows that it cannot take, the first of each sort.
    """
    key, trainer = f"stages.{ctx.name}", engines.TRAINERS[ctx.options.kind].name
    found: dict[str, DataError] = {}
    for row in rows:
        if row.weight != 1.0:
            what = f"has a weight of {row.weight:g}, and TRL's {trainer} weighs all rows alike"
            fix = "leave the weights out"
        elif len(row.responses) > 2:
            what = f"ranks {len(row.responses)} answers, and TRL's {trainer} takes pairs"
            fix = f"try {key}.max_answers=2"
        elif any(weight not in (0.0, 1.0) for response in row.responses for weight in response.weights):
            what = f"weighs its turns, and TRL's {trainer} takes them or leaves them out"
            fix = "give weights of 0 or 1"
        else:
            continue
        error = DataError(f"{key}.engine", f"row {row.id} {what}", f"{fix}, or {key}.engine=align")
        found.setdefault(fix, error)
    raise_all(list(found.values()))


def fit(
    ctx: StageContext[Any],
    opened: OpenedModel,
    groups: list[Group],
    rows: Sequence[TokenRow],
    shown: Mapping[str, str],
) -> int:
    """Train the model with TRL's trainer; it is in eval mode before and after.

    Args:
        ctx: Of a stage of a kind in `PEERS`.
        opened: What learns and runs.
        groups: What learns, clipped together.
        rows: The training rows.
        shown: Metric -> its short name on the progress line.

    Returns:
        The number of steps.

    Raises:
        Interrupted: The run was asked to stop; the stage starts anew with the same command.
        NumericsError: A loss or a gradient is not finite.
    """
    if len(ctx.work.metrics):
        ctx.reporter.note("engine=trl saves no states: the stage starts again from its first step")
    ctx.work.metrics.truncate(0)
    with _quiet(), _lent(opened) as model:
        trainer = _trainer(ctx, opened, model, groups, rows, shown)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return steps(len(rows), ctx.options.epochs, ctx.options.batch_size)


def _trainer(
    ctx: StageContext[Any],
    opened: OpenedModel,
    model: Any,
    groups: list[Group],
    rows: Sequence[TokenRow],
    shown: Mapping[str, str],
) -> Any:
    """The trainer, ready to go."""
    import trl
    from datasets import Dataset as Columns

    o, peer = ctx.options, PEERS[ctx.options.kind]
    trainer, config = (getattr(trl, name) for name in peer.names)
    ctx.reporter.note(f"trained by {trainer.__name__} of TRL {trl.__version__}")
    tokenizer = copy.deepcopy(opened.template.tokenizer)
    tokenizer.pad_token_id = opened.template.pad_id
    optimizer = build(o.optimizer, groups, o.weight_decay)
    total = steps(len(rows), o.epochs, o.batch_size)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: factor(o.schedule, step, total, o.warmup)
    )
    found = type(f"Ordered{trainer.__name__}", (_Ordered, trainer), {"order": Order(ctx.seed, len(rows))})
    return found(
        model,
        args=config(**common_arguments(ctx, peer.whole_batch(o)), **peer.arguments(o)),
        train_dataset=Columns.from_list([peer.columns(o, row) for row in rows]),
        processing_class=tokenizer,
        optimizers=(optimizer, rate),
        callbacks=[_Told(ctx, peer, groups, rows, shown)],
        **peer.models(opened),
    )


def common_arguments(ctx: StageContext[Any], whole_batch: bool) -> dict[str, Any]:
    """Arguments of every trainer: fp32, nothing saved, nothing printed, a micro-batch of one row."""
    o = ctx.options
    together = o.batch_size if whole_batch else 1
    return {
        "output_dir": str(ctx.work.folder / "trl"),
        "seed": ctx.seed % 2**32,  # numpy takes no more
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "num_train_epochs": o.epochs,
        "per_device_train_batch_size": together,
        "gradient_accumulation_steps": o.batch_size // together,
        "max_grad_norm": o.max_grad_norm,
        "max_length": None,  # rows were cut when they were tokenised
        "remove_unused_columns": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


class Order(Sampler[int]):
    """The rows of each epoch in the order in which Align's loop sees them."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count, self.epoch = seed, count, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by transformers before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.seed, self.epoch, self.count))

    def __len__(self) -> int:
        return self.count


class _Ordered:
    """Mixed into a trainer: the rows as they were tokenised, in Align's order."""

    order: Order
    args: Any
    accelerator: Any
    train_dataset: Any
    data_collator: Any

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """DPOTrainer would tokenise; the others see that it was done."""
        if "prompt_ids" in dataset.column_names:
            return dataset
        return super()._prepare_dataset(dataset, *args, **kwargs)  # type: ignore[misc]

    def get_train_dataloader(self) -> Any:
        """Batches of rows, the last one of an epoch as small as it is."""
        size = self.args.per_device_train_batch_size
        loader = DataLoader(
            self.train_dataset, batch_size=size, sampler=self.order, collate_fn=self.data_collator
        )
        return self.accelerator.prepare(loader)


class _Told(TrainerCallback):
    """Writes each step into the stage's metrics under Align's names, and stops where the run was asked to."""

    def __init__(
        self,
        ctx: StageContext[Any],
        peer: Peer,
        groups: list[Group],
        rows: Sequence[TokenRow],
        shown: Mapping[str, str],
    ) -> None:
        self.ctx, self.peer, self.rows, self.shown = ctx, peer, rows, shown
        (self.clipped,) = clipped_together(groups)  # TRL clips all gradients as one
        self.tokens = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Row | None = None, **kwargs: Any) -> None:
        """A step is done; the last call, after all steps, has no loss."""
        if logs is None or "loss" not in logs:
            return
        step, total = state.global_step, state.max_steps
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs[name]):
                fix = "no artifact is written; lower lr or mend the rows, which engine=align names"
                raise NumericsError(f"step {step}", f"{name} {logs[name]} is not finite", fix)
        named = self.peer.metrics(self.ctx.options)  # a step may lack some, having no answer of a label
        row = {ours: logs[theirs] for ours, theirs in named.items() if theirs in logs}
        row |= self.peer.counts(self._rows_of(step - 1))
        row |= {f"grad_norm/{self.clipped}": float(logs["grad_norm"]), "lr": logs["learning_rate"]}
        self.ctx.work.metrics.append({"step": step, **row})
        headline = {short: row[name] for name, short in self.shown.items() if name in row}
        tokens = int(logs["num_tokens"])
        self.ctx.reporter.step(step, total, headline, tokens - self.tokens)
        self.tokens = tokens
        if step < total and self.ctx.stop():
            what = f"engine=trl saves no states, and step {step} of {total} was done"
            raise Interrupted("stopped", what, "the same command starts the stage anew")

    def _rows_of(self, step: int) -> list[TokenRow]:
        size = self.ctx.options.batch_size
        epoch, place = divmod(step, steps(len(self.rows), 1, size))
        order = epoch_order(self.ctx.seed, epoch, len(self.rows))
        return [self.rows[i] for i in order[place * size : (place + 1) * size]]


@contextmanager
def _lent(opened: OpenedModel) -> Iterator[Any]:
    """The model as transformers loads it; afterwards as it was, but for its weights.

    Trainers write the tokenizer's special tokens into the model's configs, and put their own forward on it.
    """
    plain = opened.plain
    named = (getattr(plain, name, None) for name in ("config", "generation_config"))
    configs = [one for one in named if one is not None]
    before = [copy.copy(vars(one)) for one in configs]
    flat.release(plain.base_model)
    try:
        yield opened.model
    finally:
        opened.model.eval()
        vars(plain).pop("forward", None)
        for config, fields in zip(configs, before, strict=True):
            vars(config).clear()
            vars(config).update(fields)
        if adapters.is_peft(opened.model) and REFERENCE in opened.model.peft_config:  # type: ignore[operator]
            opened.model.delete_adapter(REFERENCE)  # type: ignore[operator]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and warnings of TRL and what it stands on; `_Told` says what matters."""
    import datasets

    loggers = [logging.getLogger(name) for name in ("trl", "accelerate", "peft", "datasets")]
    levels = [logger.level for logger in loggers]
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
