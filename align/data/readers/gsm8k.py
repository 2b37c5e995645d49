"""GSM8K: a question, and a worked solution whose last line states the result as `#### 42`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from align.data.fields import text, wrong
from align.data.readers.base import Context, Rows, reader
from align.data.records import Record
from align.data.sources import Blob
from align.data.types import Conversation, Message

RESULT = re.compile(r"^####[ \t]*(\S.*)$", re.MULTILINE)
CALCULATOR = re.compile(r"<<[^<>]*>>")  # 48/2 = <<48/2=24>>24: notes for a calculator that nobody runs


@reader("gsm8k")
def read(blobs: Iterable[Blob], context: Context) -> Rows:
    """Question and solution as a conversation, whose prompt carries the result as its `answer`."""
    yield from context.rows(blobs, lambda record: _row(record, context))


def _row(record: Record, context: Context) -> Conversation:
    question, solution = text(record, "question").strip(), text(record, "answer").strip()
    results = RESULT.findall(solution)
    if len(results) != 1:
        what = f"states {len(results)} results behind ####"
        raise wrong(record, "answer", what, "give a solution whose last line is #### RESULT")
    turns = (Message("user", question), Message("assistant", CALCULATOR.sub("", solution)))
    facts = {"answer": results[0].strip().replace(",", "")}
    return Conversation(f"{context.name}/{record.key}", turns, context.name, facts=facts)
