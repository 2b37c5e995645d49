"""`model.generate` of transformers: the greedy answers to given prompts, in batches padded on the left."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.rows import Row
from benchmarks.spec import Spec


class Generate:
    """Batches of `spec.micro` prompts.

    Attributes:
        tokens: Of each answer of the last run, in the order of the rows.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec, self.ends = spec, list(spec.ends)
        self.model: Any = AutoModelForCausalLM.from_pretrained(spec.model, dtype=torch.float32).eval()
        self.tokens: list[list[int]] = []

    def prepare(self, rows: Sequence[Row]) -> None:
        """The prompts."""
        self.prompts = [row.prompt for row in rows]

    def train(self) -> None:
        """Answer them."""
        self.tokens = []
        for start in range(0, len(self.prompts), self.spec.micro):
            self.tokens += self._answers(self.prompts[start : start + self.spec.micro])

    def _answers(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), self.spec.pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        out = self.model.generate(
            ids, attention_mask=mask, max_new_tokens=self.spec.longest, do_sample=False,
            eos_token_id=self.ends, pad_token_id=self.spec.pad,
        )  # fmt: skip
        return [self._cut(answer) for answer in out[:, longest:].tolist()]

    def _cut(self, answer: list[int]) -> list[int]:
        """Up to the token that ends it; behind it stands padding."""
        at = next((i for i, token in enumerate(answer) if token in self.ends), len(answer))
        return answer[: at + 1]

    def finish(self) -> tuple[list[float], list[float]]:
        """Nothing is learned."""
        return [], []

    def versions(self) -> dict[str, str]:
        """What it computes with."""
        return {name: version(name) for name in ("transformers", "torch")}


def open_side(spec: Spec) -> Generate:
    """The side of this module."""
    return Generate(spec)
