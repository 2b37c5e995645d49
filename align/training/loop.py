"""The one training loop. It knows no algorithm: a `Task` supplies micro-batches and an objective."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from align.artifacts.store import Work
from align.config.base import TrainingOptions
from align.errors import Interrupted, NumericsError, is_out_of_memory
from align.objectives.reduce import Loss, Metric, merge
from align.training import optim, state
from align.training.masters import masters_of

TASK = "task/"  # before the names of a task's own tensors in a saved state
HALVINGS = 3  # of a micro-batch, before the stage gives up


@dataclass(frozen=True)
class Micro:
    """One forward's worth of a step.

    Attributes:
        loss: Computes the objective as a sum; called once.
        names: ids of its rows, written down when a number is not finite.
        tokens: Real tokens, for the rate.
    """

    loss: Callable[[], Loss]
    names: tuple[str, ...]
    tokens: int


class Task(Protocol):
    """What a stage gives to the loop."""

    groups: list[optim.Group]

    @property
    def total(self) -> int:
        """Optimizer steps."""

    def micros(self, step: int) -> tuple[Iterable[Micro], float]:
        """The step's micro-batches and the global count that their summed losses are divided by."""

    def edge(self, step: int) -> bool:
        """True where a state may be saved after `step` steps are done."""

    def after(self, step: int, metrics: dict[str, float]) -> dict[str, float] | None:
        """Look at the step's metrics; return the row to log, or None to log nothing yet."""

    def headline(self, row: Mapping[str, float]) -> dict[str, float]:
        """The two or three numbers of the progress line."""

    def halve(self) -> int:
        """Let a micro-batch hold half as many tokens; returns how many."""

    def state(self) -> dict[str, Any]:
        """JSON-able state beyond weights and optimizer."""

    def tensors(self) -> dict[str, Tensor]:
        """Tensors of that state."""

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put `state` and `tensors` back."""


class Progress(Protocol):
    """Where the loop says how it goes."""

    def step(self, step: int, total: int, headline: Mapping[str, float], tokens: int = 0) -> None:
        """A step is done."""

    def note(self, text: str) -> None:
        """One line."""


def train(
    task: Task,
    options: TrainingOptions,
    work: Work,
    progress: Progress,
    stop: Callable[[], bool],
    *,
    seed: int,
    every: int,
) -> None:
    """Run the task's remaining steps, saving its state so that a killed run resumes bit for bit.

    Args:
        task: Batches and objective.
        options: Learning-rate schedule, decay and clipping.
        work: Folder of saved states and metrics.
        progress: Where to say how it goes.
        stop: True once the run was asked to stop.
        seed: Of dropout and anything else that draws from the global generators.
        every: Steps between saved states, at the task's edges.

    Raises:
        Interrupted: The run was asked to stop; its state is saved.
        NumericsError: A loss or a gradient is not finite; no step was taken with it.
    """
    learned = masters_of(task.groups)
    parameters = {f"{g.name}/{name}": p for g in learned.groups for name, p in g.parameters.items()}
    optimizer = optim.build(options.optimizer, learned.groups, options.weight_decay)
    optimizer.register_step_pre_hook(lambda *_: learned.follow())
    optimizer.register_step_post_hook(lambda *_: learned.write_back())
    clipped = optim.clipped_together(learned.groups)
    seed_all(seed)
    start = _resume(task, parameters, optimizer, work, progress)
    learned.write_back()
    saved, unsaid = start, 0
    for step in range(start, task.total):
        optim.set_lr(optimizer, optim.factor(options.schedule, step, task.total, options.warmup))
        metrics, tokens = _fitting_step(
            task, step, optimizer, clipped, options.max_grad_norm, work.folder, progress
        )
        metrics["lr"] = optimizer.param_groups[0]["lr"]
        row, unsaid = task.after(step, metrics), unsaid + tokens
        if row is not None:
            work.metrics.append({"step": step + 1, **row})
            progress.step(step + 1, task.total, task.headline(row), unsaid)
            unsaid = 0
        done = step + 1
        stopping = stop()
        if task.edge(done) and done < task.total and (stopping or done - saved >= every):
            _save(task, done, parameters, optimizer, work)
            saved = done
        if stopping and saved == done:
            raise Interrupted(
                "stopped", f"state saved at step {saved} of {task.total}", "the same command resumes"
            )


def seed_all(seed: int) -> None:
    """Seed python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _fitting_step(
    task: Task,
    step: int,
    optimizer: torch.optim.Optimizer,
    clipped: Mapping[str, list[nn.Parameter]],
    max_norm: float,
    folder: Path,
    progress: Progress,
) -> tuple[dict[str, float], int]:
    """A step; where memory runs out, the same step again in smaller parts, which changes no result."""
    for attempt in range(HALVINGS + 1):
        draws = torch.get_rng_state()
        try:
            return _step(task, step, optimizer, clipped, max_norm, folder)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or attempt == HALVINGS:
                raise
        # Outside of the handler: while it lives, the error holds the frames, and with them the activations.
        optimizer.zero_grad(set_to_none=True)
        torch.set_rng_state(draws)
        progress.note(f"step {step + 1}: out of memory; again with {task.halve()} tokens at a time")
    raise AssertionError("the last attempt returns or raises")


def _step(
    task: Task,
    step: int,
    optimizer: torch.optim.Optimizer,
    clipped: Mapping[str, list[nn.Parameter]],
    max_norm: float,
    folder: Path,
) -> tuple[dict[str, float], int]:
    """Accumulate the gradient over the micro-batches, look at it, then step."""
    optimizer.zero_grad(set_to_none=True)
    micros, count = task.micros(step)
    parts: list[dict[str, Metric]] = []
    total, tokens, names = 0.0, 0, []
    for micro in micros:
        loss = micro.loss()
        value = float(loss.total.detach())
        names.append(list(micro.names))
        if not np.isfinite(value):
            raise _refuse(folder, step, f"loss {value}", list(micro.names))
        if loss.total.requires_grad:
            (loss.total / count).backward()
        total += value
        tokens += micro.tokens
        parts.append(loss.metrics)
    metrics = merge(parts)
    metrics["loss"] = total / count
    rows = [name for part in names for name in part]
    for name, parameters in clipped.items():
        norm = float(nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True))
        if not np.isfinite(norm):
            raise _refuse(folder, step, f"gradient norm {norm} of {name}", rows)
        metrics[f"grad_norm/{name}"] = norm
    optimizer.step()
    return metrics, tokens


def _refuse(folder: Path, step: int, what: str, names: list[str]) -> NumericsError:
    """Write the rows of a bad batch down; no step was taken and nothing of it is saved."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bad_batch.json"
    path.write_text(json.dumps({"step": step + 1, "what": what, "rows": names}, indent=2))
    return NumericsError(
        f"step {step + 1}", f"{what} is not finite", f"rows in {path}; lower lr or mend them"
    )


def _save(
    task: Task,
    step: int,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    work: Work,
) -> None:
    tensors, rest = state.capture(parameters, optimizer)
    tensors |= {TASK + name: tensor for name, tensor in task.tensors().items()}
    work.save(step, tensors, {**rest, "task": task.state(), "metrics": len(work.metrics)})


def _resume(
    task: Task,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    work: Work,
    progress: Progress,
) -> int:
    """Put the newest saved state back; returns the number of steps already done."""
    checkpoint = work.latest()
    if checkpoint is None:
        work.metrics.truncate(0)
        return 0
    tensors: dict[str, Tensor] = checkpoint.tensors
    own = {name.removeprefix(TASK): tensors.pop(name) for name in list(tensors) if name.startswith(TASK)}
    state.restore(parameters, optimizer, tensors, checkpoint.state, str(work.folder))
    task.load(checkpoint.state["task"], own)
    work.metrics.truncate(checkpoint.state["metrics"])
    progress.note(f"resumes at step {checkpoint.step} of {task.total}")
    return int(checkpoint.step)
