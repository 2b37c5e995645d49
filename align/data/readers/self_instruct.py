"""Self-instruct's seed tasks: an instruction with instances of input and output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from align.data.readers.base import READERS, Context, Record, Rows, records
from align.data.sources import Blob
from align.data.types import Conversation, Message


@READERS.register("self_instruct")
def read(blobs: Iterable[Blob], context: Context) -> Rows:
    """One conversation per instance: the instruction and, below it, the input."""
    for blob in blobs:
        for rows in context.rows(records(blob), lambda record: list(_rows(record, context))):
            yield from rows


def _rows(record: Record, context: Context) -> Iterator[Conversation]:
    instruction = record.text("instruction").strip()
    instances = record.data.get("instances")
    if not isinstance(instances, list) or not instances:
        raise record.error("instances", "is missing or empty", "give a list of {input, output}")
    for i, instance in enumerate(instances):
        asked = f"{instruction}\n\n{instance['input'].strip()}" if instance.get("input", "").strip() else instruction
        if not instance.get("output", "").strip():
            context.dropped["an empty output"] += 1
            continue
        turns = (Message("user", asked), Message("assistant", instance["output"].strip()))
        yield Conversation(f"{context.name}/{record.number}.{i}", turns, context.name)
