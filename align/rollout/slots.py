"""Answers in slots: whichever ends leaves its slot to the next that waits; each prompt is computed once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
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
    slots = min(slots, len(answers))
    _Slots(model, _Line(model, answers, sampler, slots), sampler, slots).run()


@dataclass(frozen=True)
class _Ready:
    """An answer with its first token, which waits for a slot.

    Attributes:
        answer: The answer.
        prompts: Hold its prompt,
        number: which is this one of them.
    """

    answer: Answer
    prompts: Prompts
    number: int


class _Line:
    """Answers that wait. Their prompts are computed in small groups, each once, with the first tokens."""

    def __init__(
        self, model: PreTrainedModel, answers: Sequence[Answer], sampler: Sampler, slots: int
    ) -> None:
        self.body: Any = model.base_model
        self.head: Any = model.get_output_embeddings()
        self.sampler, self.slots, self.first = sampler, slots, virtual.ids_of(self.body)
        self.waiting, self.ready = deque(answers), deque[_Ready]()
        longest = max(self._length(answer.prompt) for answer in answers)
        self.most = longest + sampler.sampling.max_new_tokens  # positions of an answer with its prompt

    def next(self) -> _Ready | None:
        """The next answer that does not end with its first token."""
        while self.waiting and not self.ready:
            self._compute()
        return self.ready.popleft() if self.ready else None

    def _compute(self) -> None:
        """As many of the next prompts as make a good product and fill the slots, one at least."""
        rows: list[TokenRow] = []
        owners: list[int] = []
        answers: list[Answer] = []
        tokens = 0
        while self.waiting:
            row = self.waiting[0].prompt
            if not rows or row is not rows[-1]:
                tokens += self._length(row)
                if rows and (tokens > PREFILL or len(answers) >= self.slots):
                    break
                rows.append(row)
            owners.append(len(rows) - 1)
            answers.append(self.waiting.popleft())
            self.sampler.start(answers[-1])
        prompts = Prompts(self.body, [(*self.first, *row.prompt) for row in rows])
        self.sampler.grow(answers, logits_of(prompts.states, self.head)[owners])
        pairs = zip(answers, owners, strict=True)
        self.ready.extend(_Ready(answer, prompts, owner) for answer, owner in pairs if answer.end is None)

    def _length(self, prompt: TokenRow) -> int:
        return len(self.first) + len(prompt.prompt)


class _Slots:
    """Answers that grow stand in slots 0, 1, ... without a gap."""

    def __init__(self, model: PreTrainedModel, line: _Line, sampler: Sampler, slots: int) -> None:
        self.body: Any = model.base_model
        self.head: Any = model.get_output_embeddings()
        self.line, self.sampler, self.cache = line, sampler, KVCache(slots, line.most)
        self.growing: list[Answer] = []
        self.lengths: list[int] = []  # positions of each in the cache; its last token is not there yet

    def run(self) -> None:
        """One token of each answer a turn."""
        self._fill()
        while self.growing:
            step = Step(self.cache, self.lengths, self.body.device)
            ids = torch.tensor([answer.ids[-1] for answer in self.growing])
            states = flat.run(self.body, ids, step.depths, step)
            self.lengths = [length + 1 for length in self.lengths]
            self.sampler.grow(self.growing, logits_of(states, self.head))
            self._fill()

    def _fill(self) -> None:
        """Answers that ended leave their slots to the next; where none waits, to the last."""
        free = [slot for slot, answer in enumerate(self.growing) if answer.end is not None]
        free += range(len(self.growing), self.cache.slots)
        for taken, slot in enumerate(free):
            ready = self.line.next()
            if ready is None:
                self._close([slot for slot in free[taken:] if slot < len(self.growing)])
                return
            length = self.cache.put(slot, ready.prompts, ready.number)
            self.growing[slot : slot + 1], self.lengths[slot : slot + 1] = [ready.answer], [length]

    def _close(self, free: list[int]) -> None:
        """Let the last answers move into free slots."""
        for slot in reversed(free):
            answer, length = self.growing.pop(), self.lengths.pop()  # grows on, unless the slot is its own
            if slot < len(self.growing):
                self.cache.move(len(self.growing), slot, length)
                self.growing[slot], self.lengths[slot] = answer, length
