"""The project's own everyday requests: JSONL of prompt, good, poor and refusal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from align.data.readers.base import READERS, Context, Record, Rows, json_lines
from align.data.sources import Blob
from align.data.types import Conversation, Message, Prompt, Ranking

TIERS = ("good", "poor", "refusal")


@READERS.register("everyday")
def read(blobs: Iterable[Blob], context: Context) -> Rows:
    """Requests as conversations with their good answers, rankings good > poor > refusal, or prompts."""
    for blob in blobs:
        for record in json_lines(blob):
            yield from _views(record, context)


def _views(record: Record, context: Context) -> Iterator[Conversation | Ranking | Prompt]:
    name, asked = f"{context.name}/{record.text('id')}", (Message("user", record.text("prompt")),)
    if context.kind == "prompts":
        yield Prompt(name, asked, context.name)
        return
    answers = [(text, tier) for tier, field in enumerate(TIERS) for text in record.data[field]]
    if context.kind == "conversations":
        for i, text in enumerate(text for text, tier in answers if tier == 0):
            yield Conversation(f"{name}.{i}", (*asked, Message("assistant", text)), context.name)
    else:
        yield Ranking(name, asked, tuple(t for t, _ in answers), tuple(tier for _, tier in answers), (), context.name)
