"""The project's own everyday requests: JSONL of prompt, good, poor and refusal."""

from __future__ import annotations

from collections.abc import Iterable

from align.data.fields import text, texts
from align.data.readers.base import Context, Row, Rows, reader
from align.data.records import Record
from align.data.sources import Blob
from align.data.types import Conversation, Message, Prompt, Ranking

TIERS = ("good", "poor", "refusal")


@reader("everyday")
def read(blobs: Iterable[Blob], context: Context) -> Rows:
    """Requests as conversations with their good answers, rankings good > poor > refusal, or prompts."""
    for views in context.rows(blobs, lambda record: _views(record, context)):
        yield from views


def _views(record: Record, context: Context) -> list[Row]:
    name, asked = f"{context.name}/{text(record, 'id')}", (Message("user", text(record, "prompt")),)
    if context.kind == "prompts":
        return [Prompt(name, asked, context.name)]
    answers = [texts(record, field) for field in TIERS]
    if context.kind == "conversations":
        return [
            Conversation(f"{name}.{i}", (*asked, Message("assistant", good)), context.name)
            for i, good in enumerate(answers[0])
        ]
    tiers = tuple(tier for tier, group in enumerate(answers) for _ in group)
    return [
        Ranking(name, asked, tuple(answer for group in answers for answer in group), tiers, (), context.name)
    ]
