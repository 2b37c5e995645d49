"""Answers in batches on transformers' own cache: for models that take no streams, and to test the slots.

Prompts are padded on the left and computed once for all their samples; finished rows leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from align.data.types import TokenRow
from align.engine import virtual
from align.engine.head import logits_of
from align.rollout.answers import Answer, Sampler


def decode(model: PreTrainedModel, answers: Sequence[Answer], sampler: Sampler, rows: int) -> None:
    """Let all answers grow to their ends.

    Args:
        model: A causal model in eval mode.
        answers: Those of a prompt stand together.
        sampler: Chooses tokens.
        rows: Answers that grow at a time.
    """
    for start in range(0, len(answers), rows):
        _Batch(model, answers[start : start + rows], sampler).run()


class _Batch:
    """Answers that begin together, until the last of them ends."""

    def __init__(self, model: PreTrainedModel, answers: Sequence[Answer], sampler: Sampler) -> None:
        self.model, self.sampler, self.answers = model, sampler, list(answers)
        self.device: torch.device = model.device

    def run(self) -> None:
        """One token of each answer a turn."""
        for answer in self.answers:
            self.sampler.start(answer)
        logits, cache, mask, position = self._prefill()
        while True:
            tokens = self.sampler.grow(self.answers, logits)
            kept = [i for i, answer in enumerate(self.answers) if answer.end is None]
            if not kept:
                return
            if len(kept) < len(tokens):
                keep = torch.tensor(kept, device=self.device)
                self.answers = [self.answers[i] for i in kept]
                mask, position = mask[keep], position[keep]
                cache.batch_select_indices(keep)
            position = position + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            ids = torch.tensor([tokens[i] for i in kept], device=self.device)
            logits = self._forward(ids[:, None], mask, position[:, None], cache)

    def _prefill(self) -> tuple[Tensor, Any, Tensor, Tensor]:
        """Run each prompt once, then repeat its cache for its samples."""
        rows: list[TokenRow] = []
        owners: list[int] = []
        for answer in self.answers:
            if not rows or answer.prompt is not rows[-1]:
                rows.append(answer.prompt)
            owners.append(len(rows) - 1)
        body, count = self.model.base_model, len(rows)
        first = virtual.ids_of(body)
        prompts = [(*first, *row.prompt) for row in rows]
        longest = max(map(len, prompts))
        ids = torch.zeros(count, longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            ids[i, longest - len(prompt) :] = torch.tensor(prompt)
            mask[i, longest - len(prompt) :] = 1
        past = virtual.cache_of(body, count)
        cache = DynamicCache(config=self.model.config) if past is None else past
        mask = torch.cat([mask.new_ones(count, cache.get_seq_length()), mask], dim=1).to(self.device)
        positions = (mask.cumsum(-1) - 1).clamp_(min=0)[:, -longest:]
        logits = self._forward(ids.to(self.device), mask, positions, cache)
        repeat = torch.tensor(owners, device=self.device)
        if len(owners) > count:
            cache.batch_select_indices(repeat)
        return logits[repeat], cache, mask[repeat], positions[repeat, -1]

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        out = self.model.base_model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        return logits_of(out.last_hidden_state[:, -1], self.model.get_output_embeddings())
