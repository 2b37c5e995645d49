"""Align's generator: the greedy answers to given prompts, as a stage samples them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import align
from align.config.base import SamplingOptions
from align.data.types import TokenRow
from align.models.policy import open_policy
from align.rollout.ends import Ends
from align.rollout.generate import generate
from benchmarks.rows import Row
from benchmarks.spec import Spec


class OurRollouts:
    """Answers in slots.

    Attributes:
        tokens: Of each answer of the last run, in the order of the rows.
    """

    def __init__(self, spec: Spec) -> None:
        folder = Path(spec.model)
        self.model = open_policy(folder, folder, spec.template, None).plain
        self.sampling = SamplingOptions(max_new_tokens=spec.longest, temperature=0.0)
        self.ends = Ends(tuple(spec.ends))
        self.tokens: list[list[int]] = []

    def prepare(self, rows: Sequence[Row]) -> None:
        """The prompts."""
        self.rows = [TokenRow(row.id, row.prompt, ()) for row in rows]

    def train(self) -> None:
        """Answer them."""
        found = generate(self.model, self.rows, self.sampling, self.ends, seed=0)
        self.tokens = [list(rollout.ids) for rollout in found]

    def finish(self) -> tuple[list[float], list[float]]:
        """Nothing is learned."""
        return [], []

    def versions(self) -> dict[str, str]:
        """Align and what it computes with."""
        return {"align": align.__version__, **{name: version(name) for name in ("torch", "transformers")}}
