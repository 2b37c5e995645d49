"""IFEval: prompts with the ids of the instructions that a program can check, and what each of them takes."""

from __future__ import annotations

from collections.abc import Iterable

from align.data.fields import text, texts, wrong
from align.data.readers.base import Context, Rows, reader
from align.data.records import Record, said
from align.data.sources import Blob
from align.data.types import Message, Prompt


@reader("ifeval")
def read(blobs: Iterable[Blob], context: Context) -> Rows:
    """Prompts that carry their instructions as `constraints`, under the ids of the data."""
    yield from context.rows(blobs, lambda record: _row(record, context))


def _row(record: Record, context: Context) -> Prompt:
    names, taken = texts(record, "instruction_id_list"), record.data.get("kwargs")
    if not isinstance(taken, list) or len(taken) != len(names):
        what = f"does not give one object for each of {len(names)} instructions"
        raise wrong(record, "kwargs", what, "make them fit")
    constraints = []
    for i, (name, keys) in enumerate(zip(names, taken, strict=True)):
        if not isinstance(keys, dict):
            raise wrong(record, f"kwargs[{i}]", f"is {said(keys)}, not an object", "give what it takes")
        given = {key: value for key, value in keys.items() if value is not None}  # tables fill every cell
        constraints.append({**given, "name": name})
    asked = (Message("user", text(record, "prompt")),)
    key = record.data.get("key", record.key)
    return Prompt(f"{context.name}/{key}", asked, context.name, {"constraints": constraints})
