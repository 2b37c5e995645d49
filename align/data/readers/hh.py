"""Anthropic's helpful-harmless format: two transcripts that share their turns up to the last answer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from align.data.readers.base import READERS, Context, Record, Rows, records
from align.data.sources import Blob
from align.data.types import Message, Ranking

TURN = re.compile(r"\n\n(Human|Assistant):")


@READERS.register("hh")
def read(blobs: Iterable[Blob], context: Context) -> Rows:
    """Pairs: chosen before rejected."""
    for blob in blobs:
        for row in context.rows(records(blob), lambda record: _row(record, context)):
            if row is not None:
                yield row


def _row(record: Record, context: Context) -> Ranking | None:
    chosen, rejected = (_turns(record, name) for name in ("chosen", "rejected"))
    prompt = chosen[:-1]
    if prompt != rejected[:-1]:
        context.dropped["chosen and rejected answer different prompts"] += 1
        return None
    if not chosen[-1].content or not rejected[-1].content:
        context.dropped["an empty answer"] += 1
        return None
    answers = (chosen[-1].content, rejected[-1].content)
    if answers[0] == answers[1]:
        context.dropped["chosen equals rejected"] += 1
        return None
    return Ranking(f"{context.name}/{record.number}", prompt, answers, (0, 1), (), context.name)


def _turns(record: Record, name: str) -> tuple[Message, ...]:
    head, *parts = TURN.split(record.text(name))
    if head.strip() or not parts:
        raise record.error(name, "does not open with '\\n\\nHuman:'", "give transcripts in the hh format")
    turns: list[Message] = []
    for speaker, text in zip(parts[::2], parts[1::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        if turns and turns[-1].role == role:  # a few transcripts hold a speaker twice in a row
            turns[-1] = Message(turns[-1].role, f"{turns[-1].content}\n\n{text.strip()}".strip())
        else:
            turns.append(Message(role, text.strip()))  # type: ignore[arg-type]
    if turns[-1].role != "assistant" or len(turns) < 2 or turns[0].role != "user":
        raise record.error(name, "does not go from a human's turn to an assistant's", "give whole transcripts")
    return tuple(turns)
