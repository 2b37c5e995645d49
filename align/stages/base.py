"""What a stage is: options and inputs in, one artifact out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from align.artifacts.store import Artifact, Work
from align.config.base import StageOptions
from align.config.schema import Dtype, Recipe

O = TypeVar("O", bound=StageOptions)  # noqa: E741  (options)


class Reporter(Protocol):
    """Where a stage says how it goes; never part of a result."""

    def step(self, step: int, total: int, headline: Mapping[str, float], tokens: int = 0) -> None:
        """A step is done: `headline` holds the two or three numbers of the progress line."""

    def note(self, text: str) -> None:
        """One line for the log and the screen."""

    def warn(self, text: str) -> None:
        """One line that the end-of-run summary repeats."""


@dataclass
class StageContext(Generic[O]):
    """All that a stage is given.

    Attributes:
        name: The stage's name in the recipe.
        options: Its options.
        recipe: The whole recipe (base model, adapter, hardware).
        seed: The stage's seed.
        base: Folder of the base model, already a plain Hugging Face folder.
        inputs: Name of the input stage -> its artifact (`base` is not among them).
        work: Its folder of saved states and metrics.
        reporter: Progress.
        stop: True once the run was asked to stop.
        dtype: That models compute in.
    """

    name: str
    options: O
    recipe: Recipe
    seed: int
    base: Path
    inputs: dict[str, Artifact]
    work: Work
    reporter: Reporter
    stop: Callable[[], bool]
    dtype: Dtype = "float32"


class Stage(ABC, Generic[O]):
    """One kind of stage. `prepare` reads and checks, `run` computes and writes."""

    kind: ClassVar[str]

    def __init__(self, ctx: StageContext[O]) -> None:
        self.ctx = ctx

    @abstractmethod
    def prepare(self) -> int:
        """Read, check and tokenise the data without loading weights; return the number of steps.

        Called by the plan as well, where artifacts of inputs may not exist yet.
        """

    @abstractmethod
    def run(self, out: Path) -> dict[str, Any]:
        """Compute, resuming from `ctx.work` where it holds a state, and write the artifact into `out`.

        Returns:
            The summary, which is also written as `summary.json`.
        """


def starting_point(ctx: StageContext[Any], name: str) -> Artifact | Path:
    """The artifact of an input, or the base model's folder where the input is `base`."""
    return ctx.base if name == "base" else ctx.inputs[name]
