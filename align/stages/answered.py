"""Sampled answers in the form that scorers read."""

from __future__ import annotations

from collections.abc import Sequence

from align.data.types import Prompt, TokenRow
from align.reward.score import answer_row
from align.reward.types import Answered
from align.rollout.ends import Ends
from align.rollout.types import Rollout


def answered(rollouts: Sequence[Rollout], asked: Sequence[Prompt], ends: Ends, eos: int) -> list[Answered]:
    """Each rollout with its prompt; EOS, where a reward model reads, is put behind a cut answer.

    Of an episode the answer is the policy's last turn; all that was said before is its prompt.
    """
    found = []
    for rollout, prompt in zip(rollouts, asked, strict=True):
        before, ids = (*rollout.prompt, *rollout.ids[: rollout.start]), rollout.ids[rollout.start :]
        row = answer_row(f"{rollout.id}/{rollout.sample}", before, ids, eos)
        turns, text = (*prompt.messages, *rollout.heard), ends.text(rollout)
        found.append(Answered(row.id, turns, text, row, rollout.ended, prompt.facts, rollout.earned))
    return found


def plain(prompt: Prompt, row: TokenRow, text: str, ids: Sequence[int], ended: bool, eos: int) -> Answered:
    """An answer that was not sampled just now."""
    return Answered(
        row.id, prompt.messages, text, answer_row(row.id, row.prompt, ids, eos), ended, prompt.facts
    )
