"""Answers in slots: whichever ends leaves its slot to the next that waits; each prompt is computed once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.data.types import TokenRow
from align.engine import flat, virtual
from align.engine.decode import KVCache, Prompts, Step
from align.engine.head import logits_of
from align.rollout.answers import Answer, Sampler

PREFILL = 512  # tokens of prompts computed at a time: products run at full speed, and little is kept in store


def decode(model: PreTrainedModel, answers: Sequence[Answer], sampler: Sampler, slots: int) -> None:
    """Let all answers grow to their ends.

    Args:
        model: A causal model whose body takes streams (`engine.flat`), in eval mode.
        answers: Those of a prompt stand together.
        sampler: Chooses tokens.
        slots: Answers that grow at a time, at most.
    """
    _Slots(model, answers, sampler, min(slots, len(answers))).run()


@dataclass(frozen=True)
class _Ready:
    """An answer that waits for a slot.

    Attributes:
        answer: The answer.
        prompts: Hold its prompt,
        number: which is this one of them.
    """

    answer: Answer
    prompts: Prompts
    number: int


class _Line:
    """Answers that wait; their prompts are computed in small groups, each once."""

    def __init__(self, body: Any, answers: Sequence[Answer]) -> None:
        self.body, self.first = body, virtual.ids_of(body)
        self.waiting = deque(answers)
        self.ready: deque[_Ready] = deque()

    def take(self, count: int) -> list[_Ready]:
        """The next answers, at most `count`."""
        while len(self.ready) < count and self.waiting:
            self._compute()
        return [self.ready.popleft() for _ in range(min(count, len(self.ready)))]

    def length(self, prompt: TokenRow) -> int:
        """Tokens of a prompt behind what the model puts before it."""
        return len(self.first) + len(prompt.prompt)

    def _compute(self) -> None:
        """As many of the next prompts as make a good product, one at least."""
        rows: list[TokenRow] = []
        owners: list[tuple[Answer, int]] = []
        tokens = 0
        while self.waiting:
            row = self.waiting[0].prompt
            if not rows or row is not rows[-1]:
                tokens += self.length(row)
                if rows and tokens > PREFILL:
                    break
                rows.append(row)
            owners.append((self.waiting.popleft(), len(rows) - 1))
        prompts = Prompts(self.body, [(*self.first, *row.prompt) for row in rows])
        self.ready.extend(_Ready(answer, prompts, number) for answer, number in owners)


class _Slots:
    """Answers that grow stand in slots 0, 1, ...; the last of them takes the place of one that leaves."""

    def __init__(
        self, model: PreTrainedModel, answers: Sequence[Answer], sampler: Sampler, slots: int
    ) -> None:
        self.body: Any = model.base_model
        self.head: Any = model.get_output_embeddings()
        self.sampler, self.line = sampler, _Line(self.body, answers)
        longest = max(self.line.length(a.prompt) for a in answers)
        self.cache = KVCache(slots, longest + sampler.sampling.max_new_tokens)
        self.growing: list[Answer] = []
        self.lengths: list[int] = []  # positions of each in the cache

    def run(self) -> None:
        """One token of each answer a turn."""
        states = self._admit()
        while self.growing:
            tokens = self.sampler.grow(self.growing, logits_of(torch.cat(states), self.head))
            tokens = self._leave(tokens)
            states = [self._advance(tokens)] if tokens else []
            states += self._admit()

    def _admit(self) -> list[Tensor]:
        """Fill the free slots."""
        found = []
        for ready in self.line.take(self.cache.slots - len(self.growing)):
            self.sampler.start(ready.answer)
            self.lengths.append(self.cache.put(len(self.growing), ready.prompts, ready.number))
            self.growing.append(ready.answer)
            found.append(ready.prompts.states[ready.number, None])
        return found

    def _leave(self, tokens: list[int]) -> list[int]:
        """Free the slots of answers that ended; returns the tokens of the others, by slot."""
        columns: tuple[list[Any], ...] = (self.growing, self.lengths, tokens)
        for slot in reversed(range(len(tokens))):
            if self.growing[slot].end is None:
                continue
            last = [column.pop() for column in columns]  # grows on, unless it is the one that leaves
            if slot < len(self.growing):
                self.cache.move(len(self.growing), slot, last[1])
                for column, value in zip(columns, last, strict=True):
                    column[slot] = value
        return tokens

    def _advance(self, tokens: list[int]) -> Tensor:
        """[S, D] states that predict what follows the tokens, which enter the cache."""
        step = Step(self.cache, self.lengths, self.body.device)
        states = flat.run(self.body, torch.tensor(tokens), step.depths, step)
        self.lengths = [length + 1 for length in self.lengths]
        return states
