"""Anthropic's helpful-harmless format: two transcripts that share their turns up to the last answer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from align.data.fields import text, wrong
from align.data.readers.base import Context, Rows, reader
from align.data.records import Record
from align.data.sources import Blob
from align.data.types import Message, Ranking, Role

TURN = re.compile(r"\n\n(Human|Assistant):")
ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}


@reader("hh")
def read(blobs: Iterable[Blob], context: Context) -> Rows:
    """Pairs, chosen before rejected; the few that hold no comparison are dropped and counted."""
    yield from context.rows(blobs, lambda record: _row(record, context))


def _row(record: Record, context: Context) -> Ranking | None:
    chosen, rejected = (_turns(record, name) for name in ("chosen", "rejected"))
    answers = (chosen[-1].content, rejected[-1].content)
    if chosen[:-1] != rejected[:-1]:
        context.drop(record, "chosen and rejected answer different prompts")
    elif not all(answers):
        context.drop(record, "an empty answer")
    elif answers[0] == answers[1]:
        context.drop(record, "chosen equals rejected")
    else:
        return Ranking(f"{context.name}/{record.key}", chosen[:-1], answers, (0, 1), (), context.name)
    return None


def _turns(record: Record, name: str) -> tuple[Message, ...]:
    """The turns of a transcript; a speaker who stands twice in a row, as in a few, has one turn of both."""
    head, *parts = TURN.split(text(record, name))
    if head.strip() or not parts:
        raise wrong(record, name, "does not open with '\\n\\nHuman:'", "give transcripts in the hh format")
    turns: list[Message] = []
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        role = ROLES[speaker]
        if turns and turns[-1].role == role:
            turns[-1] = Message(role, f"{turns[-1].content}\n\n{said.strip()}".strip())
        else:
            turns.append(Message(role, said.strip()))
    if turns[-1].role != "assistant" or turns[0].role != "user":
        raise wrong(
            record, name, "does not go from a human's turn to an assistant's", "give whole transcripts"
        )
    return tuple(turns)
