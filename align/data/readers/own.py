"""The project's own JSONL (also CSV and Parquet): one row form per file, recognised by its fields.

| form | fields |
|---|---|
| messages | messages: [{role, content, weight?}], the last turn the assistant's |
| completion | prompt, completion |
| text | text (plain text, no prompt) |
| pairs | prompt, chosen, rejected |
| rankings | prompt, answers, and one of tiers, ranks (0 or 1 is best), ratings (higher is better) |
| prompts | prompt |

`prompt` is text or a list of turns; `id` is optional everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from align.data.readers.base import READERS, Context, Record, Rows, records
from align.data.sources import Blob
from align.data.types import Conversation, Message, Prompt, Ranking
from align.errors import DataError
from align.registry import nearest

Row = Conversation | Ranking | Prompt
FORMS: dict[str, set[str]] = {
    "messages": {"messages"},
    "completion": {"prompt", "completion"},
    "text": {"text"},
    "pairs": {"prompt", "chosen", "rejected"},
    "rankings": {"prompt", "answers"},
    "prompts": {"prompt"},
}
OPTIONAL = {"rankings": {"tiers", "ranks", "ratings"}}


@READERS.register("own")
def read(blobs: Iterable[Blob], context: Context) -> Rows:
    """Rows of whichever form the file's first row has."""
    for blob in blobs:
        form = ""
        for record in records(blob):
            if not form and not isinstance(record.fields, DataError):
                form = form_of(record)
            if form or not context.skip_bad:
                yield from context.rows([record], lambda r, form=form: _row(r, form, context))  # type: ignore[misc]


def form_of(record: Record) -> str:
    """The form of a row, the one that uses most of its fields.

    Raises:
        DataError: No form fits; the nearest field is named.
    """
    have = set(record.data)
    fits = [form for form, fields in FORMS.items() if fields <= have]
    if fits:
        return max(fits, key=lambda form: len(FORMS[form]))
    known = set.union(*FORMS.values(), *OPTIONAL.values())
    for name in sorted(have - known):
        near = nearest(name, known)
        if near:
            raise DataError(record.where, f"unknown field {name!r}", f"did you mean {near!r}?")
    forms = "; ".join(", ".join(sorted(fields)) for fields in FORMS.values())
    raise DataError(record.where, f"fields {', '.join(sorted(have)) or '(none)'} fit no form", f"give one of: {forms}")


def _row(record: Record, form: str, context: Context) -> Row:
    missing = sorted(FORMS[form] - set(record.data))
    if missing:
        raise record.error(missing[0], "is missing", f"every row of this file has {', '.join(sorted(FORMS[form]))}")
    allowed = FORMS[form] | OPTIONAL.get(form, set()) | {"id"}
    for name in sorted(set(record.data) - allowed):
        near = nearest(name, allowed)
        if near:
            raise record.error(name, "is unknown", f"did you mean {near!r}?")
    given = record.data.get("id")
    if given is not None and (isinstance(given, bool) or not isinstance(given, (str, int))):
        raise record.error("id", f"is {given!r}", "give text or a whole number")
    name = f"{context.name}/{given if given is not None else record.number}"
    return MAKERS[form](record, name, context.name)


def _messages(record: Record, name: str, source: str) -> Row:
    return Conversation(name, record.messages("messages", record.data["messages"], "assistant"), source)


def _completion(record: Record, name: str, source: str) -> Row:
    prompt = record.messages("prompt", record.data["prompt"], "user")
    return Conversation(name, (*prompt, Message("assistant", record.text("completion"))), source)


def _text(record: Record, name: str, source: str) -> Row:
    return Conversation(name, (Message("assistant", record.text("text")),), source)


def _pair(record: Record, name: str, source: str) -> Row:
    prompt = record.messages("prompt", record.data["prompt"], "user")
    chosen, rejected = record.text("chosen"), record.text("rejected")
    if chosen.strip() == rejected.strip():
        raise record.error("rejected", "equals chosen", "leave the row out: it ranks nothing")
    return Ranking(name, prompt, (chosen, rejected), (0, 1), (), source)


def _ranking(record: Record, name: str, source: str) -> Row:
    prompt = record.messages("prompt", record.data["prompt"], "user")
    answers = record.data["answers"]
    if not isinstance(answers, list) or len(answers) < 2:
        raise record.error("answers", "holds fewer than two answers", "a ranking needs two or more")
    for i, answer in enumerate(answers):
        if not isinstance(answer, str) or not answer.strip():
            raise record.error(f"answers[{i}]", "is empty or not text", "give text")
        record.clean(f"answers[{i}]", answer)
    given = [field for field in ("tiers", "ranks", "ratings") if field in record.data]
    if len(given) != 1:
        what = f"{' and '.join(given)} stand together" if given else "no order is given"
        raise DataError(record.where, what, "give one of tiers, ranks, ratings")
    values = record.data[given[0]]
    if not isinstance(values, list) or len(values) != len(answers):
        raise record.error(given[0], f"does not give one number for each of the {len(answers)} answers", "make them fit")
    numbers = [record.number_in(f"{given[0]}[{i}]", v) for i, v in enumerate(values)]
    if given[0] != "ratings":
        _check_ranks(record, given[0], numbers)
    levels = sorted(set(numbers), reverse=given[0] == "ratings")
    if len(levels) < 2:
        raise record.error(given[0], "are all equal", "leave the row out: it ranks nothing")
    ratings = tuple(numbers) if given[0] == "ratings" else ()
    return Ranking(name, prompt, tuple(answers), tuple(levels.index(n) for n in numbers), ratings, source)


def _check_ranks(record: Record, field: str, numbers: list[float]) -> None:
    levels = sorted(set(numbers))
    if any(n != int(n) for n in numbers):
        raise record.error(field, "holds a fraction", "give whole numbers, 0 or 1 for the best")
    # Ties may be told as 1, 1, 2 or as 1, 1, 3; anything else has a hole in it.
    dense = [levels[0] + i for i in range(len(levels))]
    competition = [levels[0] + sum(n < level for n in numbers) for level in levels]
    if levels[0] not in (0, 1) or levels not in (dense, competition):
        raise record.error(field, f"{[int(n) for n in numbers]} have a gap", "count from 0 or 1 without leaving any out")


def _prompt(record: Record, name: str, source: str) -> Row:
    return Prompt(name, record.messages("prompt", record.data["prompt"], "user"), source)


MAKERS: dict[str, Callable[[Record, str, str], Any]] = {
    "messages": _messages,
    "completion": _completion,
    "text": _text,
    "pairs": _pair,
    "rankings": _ranking,
    "prompts": _prompt,
}
