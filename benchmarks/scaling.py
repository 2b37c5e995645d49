"""How Align's time and memory grow: rows, length, answers per prompt, tokens at once. Align alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.client import Worker
from benchmarks.data import Checkpoint
from benchmarks.rows import Row
from benchmarks.spec import Spec

REPEATS = 3
Axes = Mapping[str, tuple[int, ...]]
AXES: Axes = {
    "rows": (8, 16, 32, 64),
    "length": (64, 128, 256, 512, 1024),
    "answers": (2, 4, 8),
    "tokens per micro-batch": (256, 512, 1024, 2048, 4096),
}
QUICK: Axes = {"rows": (8, 16), "length": (64, 256), "answers": (2, 4), "tokens per micro-batch": (512, 2048)}
PART = 128  # tokens of a prompt, and of an answer, where the axis is another
FIRST = 3  # lower tokens are special


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        axis: What varies.
        value: Its value.
        seconds: Median of the repeats.
        peak_mb: Largest of the repeats.
    """

    axis: str
    value: int
    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class _Case:
    axis: str
    value: int
    stage: str
    rows: list[Row]
    batch: int
    tokens: int = 0


def cases(eos: int, vocabulary: int, axes: Axes) -> Iterator[_Case]:
    """Every point's rows and settings: sft, but for the answers, which are those of rankings."""
    for axis, values in axes.items():
        for value in values:
            if axis == "rows":
                yield _Case(axis, value, "sft", _rows(value, PART, 1, PART, eos, vocabulary), 8)
            elif axis == "length":
                yield _Case(axis, value, "sft", _rows(8, value // 2, 1, value // 2, eos, vocabulary), 8)
            elif axis == "answers":
                yield _Case(axis, value, "reward", _rows(4, PART, value, PART, eos, vocabulary), 4)
            else:
                yield _Case(axis, value, "sft", _rows(32, PART, 1, PART, eos, vocabulary), 32, value)


def _rows(count: int, prompt: int, answers: int, answer: int, eos: int, vocabulary: int) -> list[Row]:
    draw = random.Random(0)

    def text(length: int) -> tuple[int, ...]:
        return tuple(draw.randrange(FIRST, vocabulary) for _ in range(length))

    return [
        Row(
            f"r{n}",
            text(prompt),
            tuple((*text(answer - 1), eos) for _ in range(answers)),
            ((1.0,) * answer,) * answers,
            tuple(range(answers)) if answers > 1 else (),
        )
        for n in range(count)
    ]


def measure(worker: Worker, model: Checkpoint, *, quick: bool) -> list[dict[str, Any]]:
    """Every point, each as JSON has it."""
    points = []
    loaded: Spec | None = None
    vocabulary = len(model.tokens.tokenizer)
    for case in cases(model.tokens.eos_id, vocabulary, QUICK if quick else AXES):
        spec = Spec(
            case.stage, "full", str(model.folder), model.template, model.pad, case.batch, tokens=case.tokens
        )
        if spec != loaded:
            worker.load("align", spec)
            worker.run(case.rows[:2])  # the first run is slower
            loaded = spec
        traces = [worker.run(case.rows) for _ in range(1 if quick else REPEATS)]
        seconds, peak = median(t.seconds for t in traces), max(t.peak_mb for t in traces)
        points.append(asdict(Point(case.axis, case.value, seconds, peak)))
    return points
