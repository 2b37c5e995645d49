"""Sampling answers: in slots on the flat engine where the model takes it, else in padded batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from align.config.base import SamplingOptions
from align.data.types import TokenRow
from align.engine import flat
from align.errors import is_out_of_memory, warn_once
from align.rollout import padded
from align.rollout import slots as in_slots
from align.rollout.answers import Answer, Sampler
from align.rollout.ends import Ends
from align.rollout.types import Rollout

SLOTS = 64  # a step reads all weights: on two cores, SmolLM2 took 0.10 s with 32 rows, 0.15 s with 64


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[TokenRow],
    sampling: SamplingOptions,
    ends: Ends,
    *,
    seed: int,
    samples: int = 1,
    slots: int = SLOTS,
) -> list[Rollout]:
    """Sample answers.

    Where memory runs out, the answers that are not finished begin anew in half as many slots. Neither that
    nor the order of prompts changes an answer beyond rounding: its draws are its own.

    Args:
        model: A causal model in eval mode.
        prompts: Rows whose `prompt` is used.
        sampling: How tokens are chosen.
        ends: What ends an answer.
        seed: With the row's id it fixes each draw.
        samples: Answers per prompt.
        slots: Answers that grow at a time.

    Returns:
        One rollout per prompt and sample, in the order of `prompts`, samples of a prompt together.
    """
    answers = [Answer(prompt, k) for prompt in prompts for k in range(samples)]
    sampler = Sampler(sampling, ends, seed)
    decode = in_slots.decode if flat.is_prepared(model.base_model) else padded.decode
    # The longest first: where memory runs out, it does so early, and rows of one length stand together.
    waiting = sorted(answers, key=lambda answer: -len(answer.prompt.prompt))
    while waiting:
        try:
            decode(model, waiting, sampler, slots)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or slots == 1:
                raise
            slots //= 2
            warn_once(f"sampling: out of memory; again with {slots} answers at a time")
        # Outside of the handler: while it lives, the error holds the frames, and with them the cache.
        waiting = [answer for answer in waiting if answer.end is None]
    return [answer.rollout() for answer in answers]
