"""Self-instruct's seed tasks: an instruction with instances of input and output."""

from __future__ import annotations

from collections.abc import Iterable

from align.data.fields import checked, text, wrong
from align.data.readers.base import Context, Rows, reader
from align.data.records import Record, said
from align.data.sources import Blob
from align.data.types import Conversation, Message


@reader("self_instruct")
def read(blobs: Iterable[Blob], context: Context) -> Rows:
    """One conversation per instance: the instruction and, below it, the input."""
    for rows in context.rows(blobs, lambda record: _rows(record, context)):
        yield from rows


def _rows(record: Record, context: Context) -> list[Conversation]:
    instruction = text(record, "instruction").strip()
    instances = record.data.get("instances")
    if not isinstance(instances, list) or not instances:
        raise wrong(record, "instances", "is missing or empty", "give a list of {input, output}")
    rows = []
    for i, instance in enumerate(instances):
        place = f"instances[{i}]"
        if not isinstance(instance, dict):
            raise wrong(record, place, f"is {said(instance)}", "give {input, output}")
        given = instance.get("input") or ""
        asked = (
            f"{instruction}\n\n{checked(record, f'{place}.input', given).strip()}" if given else instruction
        )
        output = checked(record, f"{place}.output", instance.get("output")).strip()
        turns = (Message("user", asked), Message("assistant", output))
        rows.append(Conversation(f"{context.name}/{record.key}.{i}", turns, context.name))
    return rows
