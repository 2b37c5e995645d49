"""The sides: one module each, with `open_side(spec)`. A peer's module imports nothing of Align."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol

from benchmarks.rows import Row
from benchmarks.spec import Spec

MODULES = {
    "align": "benchmarks.sides.ours",
    "trl": "benchmarks.sides.trl_peer",
    "transformers": "benchmarks.sides.transformers_peer",
    "generate": "benchmarks.sides.generate_peer",
}


class Side(Protocol):
    """A trainer that has its checkpoint open. One that samples has its answers in `tokens`, and no losses."""

    def prepare(self, rows: Sequence[Row]) -> None:
        """Start weights and rows, before the clock."""

    def train(self) -> None:
        """One pass over the rows; the clock runs."""

    def finish(self) -> tuple[list[float], list[float]]:
        """Loss and gradient norm of each step; lets go of optimizer and rows."""

    def versions(self) -> dict[str, str]:
        """Library -> version."""


def open_side(name: str, spec: Spec) -> Side:
    """Load a side's libraries and its checkpoint.

    Raises:
        ImportError: Its libraries are not there.
    """
    side: Side = importlib.import_module(MODULES[name]).open_side(spec)
    return side
