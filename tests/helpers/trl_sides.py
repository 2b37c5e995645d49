"""What the comparisons with TRL share: the cases, the rows, and both sides of them.

Our side is the stage itself, from token rows to artifact, with either engine. TRL's side opens the same base
folder through plain transformers and peft, and builds its own optimizer: nothing of Align stands on it, nor
anything of `align/stages/trl_engine.py`. All must agree in the loss, gradient norm (AdamW hides the scale of
a gradient) and learning rate of every step, and in every weight at the end.

What differs by design, and how the tests deal with it:

* Warm-up: the first step of transformers has learning rate 0, that of Align the first part of the rise.
  Without a warm-up the schedules are the same numbers; with one, from its end on (`test_trl_schedules`).
* Clipping: TRL clips all gradients of a stage together, and so does Align with a reward model's body and
  head; the limit bites in some steps.
* Padding: transformers reads a reward at the last token that is not padding, and never changes the embedding
  of the pad token that a model is loaded with. So TRL's classifier is loaded with a pad token other than EOS.
* Cutting: TRL cuts a step into equal parts, Align by a budget of tokens, `engine=trl` into single rows. Any
  cut must give the same step.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from datasets import Dataset as Columns
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from align.artifacts.store import Artifact, Store
from align.config.schema import LoraAdapter, NoAdapter, PathModel
from align.data.order import epoch_order
from align.data.types import Response, TokenRow
from align.models.policy import load_template
from align.stages.base import StageContext

ENGINES = ("align", "trl")
STEPS, BATCH, SEED = 20, 4, 5
NUMBERS = 2e-5  # relative, of the loss and of the gradient norm
# How far the two ends lie apart over how far it came. One tensor may be further off than all together, since
# AdamW makes steps of the rounding of a gradient next to 0. TRL, cut otherwise, differs as much from itself.
WEIGHTS, ONE_TENSOR = 1e-4, 1e-3
WHOLE, CUT = 10**6, 64  # padded tokens of a micro-batch: the whole step, or two to four sequences
FULL, LORA = NoAdapter(kind="none"), LoraAdapter(kind="lora", r=4, alpha=12)
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PAD, EOS, FIRST, VOCABULARY = 0, 2, 3, 300  # of the tokenizer; words are drawn from FIRST on
HIDDEN, BETA, DECAY = 32, 0.3, 0.1


@dataclass(frozen=True)
class Case:
    """One way to set both sides up.

    Attributes:
        rows: Times `epochs` they make 20 steps; 78 leave two rows to the last step.
        budget: Padded tokens of our micro-batches.
        parts: TRL's micro-batches of a step.
    """

    adapter: NoAdapter | LoraAdapter
    schedule: str
    rows: int = 40
    epochs: int = 2
    budget: int = WHOLE
    parts: int = 1

    def __str__(self) -> str:
        cut = "we_cut" if self.budget == CUT else f"trl_cuts_by_{self.parts}"
        return f"{self.adapter.kind}-{self.schedule}-{self.rows}_rows-{cut}"


CASES = [
    Case(FULL, "constant", budget=CUT),
    Case(FULL, "linear", parts=2),
    Case(LORA, "cosine", rows=78, epochs=1, budget=CUT),
    Case(LORA, "constant", parts=4),
]


@dataclass(frozen=True)
class Named:
    """A preference loss as our options and as TRL's name it."""

    ours: dict[str, Any]
    theirs: dict[str, Any]
    beta: float = BETA


@dataclass
class Trace:
    """The numbers of each step, and what learned at the end."""

    steps: list[dict[str, float]]
    weights: dict[str, Tensor]


def words(draw: random.Random, low: int, high: int) -> tuple[int, ...]:
    return tuple(draw.randrange(FIRST, VOCABULARY) for _ in range(draw.randint(low, high)))


def conversations(count: int) -> list[TokenRow]:
    """Rows of uneven length; every third has a turn of the user inside its response, which is not scored."""
    draw, rows = random.Random(1), []
    for n in range(count):
        prompt, ids = words(draw, 2, 10), (*words(draw, 1, 12), EOS)
        weights = (1.0,) * len(ids)
        if n % 3 == 0:
            asked = words(draw, 1, 5)
            ids, weights = (*ids, *asked, *ids), (*weights, *(0.0,) * len(asked), *weights)
        rows.append(TokenRow(f"r{n}", prompt, (Response(ids, weights),)))
    return rows


def pairs(count: int, prompt: tuple[int, int] = (2, 10), chosen: tuple[int, int] = (1, 12)) -> list[TokenRow]:
    """Prompts, a better and a worse answer, either of them the longer; fewest and most words are given."""
    draw, rows = random.Random(2), []
    for n in range(count):
        asked, answers = words(draw, *prompt), [(*words(draw, *size), EOS) for size in (chosen, (1, 12))]
        responses = tuple(Response(ids, (1.0,) * len(ids)) for ids in answers)
        ratings = (draw.randint(3, 5) / 2, draw.randint(0, 2) / 2)
        rows.append(TokenRow(f"r{n}", asked, responses, tiers=(0, 1), ratings=ratings))
    return rows


def columns(case: Case, rows: list[TokenRow], **of: Any) -> Columns:
    """TRL's columns, each computed from a row, over all passes one after the other as our side sees them."""
    order = [rows[i] for epoch in range(case.epochs) for i in epoch_order(SEED, epoch, len(rows))]
    return Columns.from_list([{name: make(row) for name, make in of.items()} for row in order])


def whole(row: TokenRow, k: int = 0) -> list[int]:
    return [*row.prompt, *row.responses[k].ids]


def lora(task: str) -> LoraConfig:
    return LoraConfig(
        task_type=task, r=4, lora_alpha=12, lora_dropout=0.0, target_modules=PROJECTIONS,
        modules_to_save=["score"] if task == "SEQ_CLS" else None,
    )  # fmt: skip


def earlier_adapter(base: Path, folder: Path) -> Path:
    """An adapter that changes the model, written by plain peft."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora("CAUSAL_LM"))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    model.save_pretrained(str(folder))
    return folder


def our_options(case: Case, lr: float, clip: float, engine: str = "align") -> dict[str, Any]:
    """Of a stage; TRL takes no budget."""
    budget = {"tokens_per_microbatch": case.budget} if engine == "align" else {}
    return {
        "data": "x", "lr": lr, "schedule": case.schedule, "warmup": 0.0, "weight_decay": DECAY,
        "max_grad_norm": clip, "epochs": case.epochs, "batch_size": BATCH, "engine": engine, **budget,
    }  # fmt: skip


def their_options(case: Case, lr: float, clip: float, folder: Path) -> dict[str, Any]:
    """The same for TRL, with its bf16, checkpointing, shuffling and cutting of long rows off."""
    return {
        "output_dir": str(folder / "trl"), "seed": SEED, "use_cpu": True, "bf16": False, "max_length": None,
        "gradient_checkpointing": False, "train_sampling_strategy": "sequential", "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH // case.parts, "gradient_accumulation_steps": case.parts,
        "learning_rate": lr, "lr_scheduler_type": case.schedule, "warmup_steps": 0, "weight_decay": DECAY,
        "max_grad_norm": clip, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8,
        "logging_steps": 1, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip


def context(
    case: Case, options: Any, base: Path, folder: Path, inputs: dict[str, Artifact] | None = None
) -> StageContext[Any]:
    model = PathModel(kind="path", path=str(base), template="chatml")
    recipe: Any = SimpleNamespace(model=model, adapter=case.adapter)
    work = Store(folder).work("policy", "k" * 64)
    return StageContext("stage", options, recipe, SEED, base, inputs or {}, work, Mock(), lambda: False)


def ours(stage: Any, folder: Path) -> Trace:
    """Run a stage that was given its token rows; the artifact is read as the plain file that it is."""
    stage.template = load_template(stage.ctx.base, "chatml")
    out = folder / "out"
    out.mkdir(parents=True)
    assert stage.run(out)["steps"] == len(stage.ctx.work.metrics)
    (file,) = out.glob("*.safetensors")
    return Trace(stage.ctx.work.metrics.rows(), load_file(file))


def theirs(trainer: Any) -> tuple[Trace, dict[str, Tensor]]:
    """Train; returns also the weights before."""
    before = weights_of(trainer.model)
    trainer.train()
    steps = [row for row in trainer.state.log_history if "loss" in row]
    return Trace(steps, weights_of(trainer.model)), before


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """What learns, under the names of a saved artifact."""
    found: Mapping[str, Tensor] = dict(model.named_parameters())
    if isinstance(model, PeftModel):
        found = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: p.detach().clone() for name, p in found.items()}


def norm(step: Mapping[str, float]) -> float:
    """Of all gradients of our side together."""
    return math.hypot(*(value for name, value in step.items() if name.startswith("grad_norm/")))


def assert_equal(mine: Trace, other: Trace, before: dict[str, Tensor]) -> None:
    """Losses, gradient norms and learning rates of every step, then every weight."""
    assert len(mine.steps) == len(other.steps) == STEPS
    for number, (a, b) in enumerate(zip(mine.steps, other.steps, strict=True), 1):
        assert a["loss"] == pytest.approx(b["loss"], rel=NUMBERS, abs=0), f"loss of step {number}"
        assert norm(a) == pytest.approx(b["grad_norm"], rel=NUMBERS, abs=0), f"gradient of step {number}"
        assert a["lr"] == pytest.approx(b["learning_rate"], rel=1e-9, abs=0), f"rate of step {number}"
    assert set(mine.weights) == set(other.weights) == set(before)
    apart = {n: float((mine.weights[n] - end).norm()) for n, end in other.weights.items()}
    moved = {n: float((end - before[n]).norm()) for n, end in other.weights.items()}
    for name, way in moved.items():
        assert way > 0, f"{name} never moved"
        assert apart[name] <= ONE_TENSOR * way, f"{name}: {apart[name]:.1e} apart after a way of {way:.1e}"
    assert math.hypot(*apart.values()) <= WEIGHTS * math.hypot(*moved.values())


def assert_close_metrics(mine: Trace, other: Trace, names: Iterable[str], tolerance: float) -> None:
    for name in names:
        a, b = ([step[name] for step in trace.steps] for trace in (mine, other))
        assert a == pytest.approx(b, rel=0, abs=tolerance), name


def assert_clips_some(trace: Trace, limit: float) -> None:
    norms = [step["grad_norm"] for step in trace.steps]
    assert min(norms) < limit < max(norms)
