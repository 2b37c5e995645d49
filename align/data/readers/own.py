"""The project's own JSONL (also CSV and Parquet): one form of row per file, recognised by its fields.

| form | fields |
|---|---|
| messages | messages: [{role, content, weight?}], the last turn the assistant's |
| completion | prompt, completion |
| text | text (plain text, no prompt) |
| pairs | chosen, rejected, and prompt where they are answers; or both whole conversations |
| unpaired | prompt, completion, label: true (desirable) or false |
| rankings | prompt, answers, and one of tiers, ranks (0 or 1 is best), ratings (higher is better) |
| rating | prompt, answer, rating (higher is better): one answer by itself |
| stepwise | prompt, completions (the steps of one answer), labels (true or false, or a number, for each) |
| prompts | prompt, and what scores of answers are told by: answer, constraints, tests, schema |

`prompt` is text or a list of turns, and so is `completion`, of one turn; `id` is optional everywhere, and so
is `weight` (above 0) in the first three, which scales the loss of the row; other fields are passed over. In
CSV, where every field is text, `weight`, `rating` and `label` are read from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from pydantic import Field

from align.config.base import Strict
from align.data.fields import cell, checked, messages, number, text, texts, wrong
from align.data.prompt_facts import FACTS, facts_of
from align.data.rankings import dense
from align.data.readers.base import Context, Row, Rows, reader
from align.data.records import Record, said
from align.data.sources import Blob
from align.data.types import Conversation, Labelled, Message, Prompt, Ranking, Stepwise
from align.errors import DataError
from align.registry import nearest

FORMS: dict[str, set[str]] = {
    "messages": {"messages"},
    "completion": {"prompt", "completion"},
    "unpaired": {"prompt", "completion", "label"},
    "text": {"text"},
    "pairs": {"chosen", "rejected"},
    "rankings": {"prompt", "answers"},
    "rating": {"prompt", "answer", "rating"},
    "stepwise": {"prompt", "completions", "labels"},
    "prompts": {"prompt"},
}
TAKE_WEIGHT = {"messages", "completion", "text", "prompts"}  # prompts learn nothing, and pass it over
ORDERS = ("tiers", "ranks", "ratings")
KNOWN = {"weight"}.union(*FORMS.values(), ORDERS)
NOT_OF_PROMPTS = KNOWN - {"prompt", "answer", "weight"}
Form = Literal[
    "messages", "completion", "unpaired", "text", "pairs", "rankings", "rating", "stepwise", "prompts"
]
LABELS = {"true": True, "1": True, "false": False, "0": False}  # in CSV every field is text


class OwnOptions(Strict):
    """How rows are read whose fields fit several forms."""

    form: Form | None = Field(None, description="of the rows; default: told by the fields of the first row")


@reader("own", OwnOptions)
def read(blobs: Iterable[Blob], context: Context) -> Rows:
    """Rows of one form, which is given or that of the first row that can be read."""
    form: str | None = context.options.form

    def make(record: Record) -> Row | None:
        nonlocal form
        form = form or form_of(record)
        return _row(record, form, context)

    rows: Rows = context.rows(blobs, make)
    yield from rows


def form_of(record: Record) -> str:
    """The form that a row's fields fit; one form's fields may contain another's.

    Raises:
        DataError: No form fits, several do, or a field is misspelt.
    """
    have = set(record.data)
    # Alone, these are more likely another form's field misspelt, singular for plural or the other way round.
    alone = {"rating": {"answer", "rating"}, "stepwise": {"completions", "labels"}}
    may_carry = set() if have & NOT_OF_PROMPTS else set(FACTS)
    known = KNOWN.difference(*(names for form, names in alone.items() if not FORMS[form] <= have)) | may_carry
    for name in sorted(have - known, key=lambda name: (name in KNOWN, name)):
        near = nearest(name, (known if name in KNOWN else KNOWN | may_carry) - have)
        if near:
            raise DataError(record.where, f"unknown field {name!r}", f"did you mean {near!r}?")
    fits = [form for form, fields in FORMS.items() if fields <= have]
    largest = [form for form in fits if not any(FORMS[form] < FORMS[other] for other in fits)]
    if set(largest) == {"pairs", "prompts"}:
        return "pairs"
    if len(largest) == 1:
        return largest[0]
    if largest:
        what = f"its fields fit the forms {' and '.join(largest)}"
        raise DataError(record.where, what, f"write a card with options: {{form: {largest[0]}}}")
    forms = "; ".join(", ".join(sorted(fields)) for fields in FORMS.values())
    shown = ", ".join(sorted(have)[:8]) or "(none)"
    raise DataError(
        record.where, f"fields {shown} fit no form", f"give one of: {forms}; or a card with fields:"
    )


def _row(record: Record, form: str, context: Context) -> Row | None:
    missing = sorted(FORMS[form] - set(record.data))
    if missing:
        raise wrong(
            record, missing[0], "is missing", f"every row of this file has {', '.join(sorted(FORMS[form]))}"
        )
    given = record.data.get("id", record.key)
    if isinstance(given, bool) or not isinstance(given, (str, int)):
        raise wrong(record, "id", f"is {given!r}", "give text or a whole number")
    if isinstance(given, str):
        checked(record, "id", given)
    if "weight" in record.data and form not in TAKE_WEIGHT:
        fix = "leave it out, or repeat the row; only conversations have one"
        raise wrong(record, "weight", f"is not read in the form {form}", fix)
    return MAKERS[form](record, f"{context.name}/{given}", context)


def _messages(record: Record, name: str, context: Context) -> Row:
    turns = messages(record, "messages", record.data["messages"], "assistant")
    return Conversation(name, turns, context.name, _weight(record))


def _completion(record: Record, name: str, context: Context) -> Row:
    prompt = messages(record, "prompt", record.data["prompt"], "user")
    return Conversation(name, (*prompt, _answer(record)), context.name, _weight(record))


def _unpaired(record: Record, name: str, context: Context) -> Row:
    prompt = messages(record, "prompt", record.data["prompt"], "user")
    return Labelled(name, prompt, _answer(record).content, _desirable(record), context.name)


def _answer(record: Record) -> Message:
    """The completion, which is text or one turn of the assistant in a list."""
    answer = record.data["completion"]
    if not isinstance(answer, list):
        return Message("assistant", checked(record, "completion", answer))
    turns = messages(record, "completion", answer, "assistant")
    if len(turns) > 1:
        raise wrong(record, "completion", f"has {len(turns)} turns", "give one turn, the assistant's")
    return turns[0]


def _desirable(record: Record) -> bool:
    label = record.data["label"]
    if not isinstance(label, bool | int | str) or str(label).lower() not in LABELS:
        shown = repr(label)[:40] if isinstance(label, int | str) else said(label)
        fix = "give true for a desirable answer, else false; or a card with options: {form: completion}"
        raise wrong(record, "label", f"is {shown}", fix)
    return LABELS[str(label).lower()]


def _text(record: Record, name: str, context: Context) -> Row:
    turns = (Message("assistant", text(record, "text")),)
    return Conversation(name, turns, context.name, _weight(record))


def _weight(record: Record) -> float:
    """What scales the loss of a conversation."""
    weight = cell(record, "weight") if "weight" in record.data else 1.0
    if weight <= 0:
        raise wrong(record, "weight", f"is {weight:g}", "give more than 0, or leave the row out")
    return weight


def _pair(record: Record, name: str, context: Context) -> Row | None:
    sides = [_side(record, field) for field in ("chosen", "rejected")]
    if sides[0][:-1] != sides[1][:-1]:
        raise wrong(
            record, "rejected", "answers another prompt than chosen", "give two answers to one prompt"
        )
    answers = (sides[0][-1].content, sides[1][-1].content)
    if answers[0].strip() == answers[1].strip():
        context.drop(record, "chosen equals rejected")
        return None
    return Ranking(name, sides[0][:-1], answers, (0, 1), (), context.name)


def _side(record: Record, field: str) -> tuple[Message, ...]:
    """The prompt and one of its two answers."""
    value = record.data[field]
    if isinstance(value, list):
        turns = messages(record, field, value, "assistant")
        if len(turns) > 1:
            return turns
        value = turns[0].content
    answer = Message("assistant", checked(record, field, value))
    if "prompt" not in record.data:
        raise wrong(
            record,
            "prompt",
            "is missing",
            "add it; transcripts with '\\n\\nHuman:' go by {card: hh_rlhf, path: ...}",
        )
    return (*messages(record, "prompt", record.data["prompt"], "user"), answer)


def _ranking(record: Record, name: str, context: Context) -> Row | None:
    prompt = messages(record, "prompt", record.data["prompt"], "user")
    answers = texts(record, "answers")
    if len(answers) < 2:
        raise wrong(record, "answers", "holds fewer than two answers", "a ranking needs two or more")
    order, values = _order(record, len(answers))
    if len(set(values)) < 2 and order != "ratings":  # equal ratings still rate
        context.drop(record, "all answers tie")
        return None
    if order == "ratings":
        return Ranking(name, prompt, tuple(answers), dense([-v for v in values]), tuple(values), context.name)
    return Ranking(name, prompt, tuple(answers), dense(values), (), context.name)


def _rating(record: Record, name: str, context: Context) -> Row:
    prompt = messages(record, "prompt", record.data["prompt"], "user")
    rating = cell(record, "rating")
    return Ranking(name, prompt, (text(record, "answer"),), (0,), (rating,), context.name)


def _stepwise(record: Record, name: str, context: Context) -> Row:
    prompt = messages(record, "prompt", record.data["prompt"], "user")
    steps, labels = texts(record, "completions"), record.data["labels"]
    if not steps:
        raise wrong(record, "completions", "is empty", "give the steps of an answer")
    if not isinstance(labels, list):
        raise wrong(record, "labels", f"is {said(labels)}, not a list", "give true or false for each step")
    if len(labels) != len(steps):
        what = f"has {len(labels)} labels for {len(steps)} steps"
        raise wrong(record, "labels", what, "give one label for each step")
    numbers = [
        float(label) if isinstance(label, bool) else number(record, f"labels[{i}]", label)
        for i, label in enumerate(labels)
    ]
    return Stepwise(name, prompt, tuple(steps), tuple(numbers), context.name)


def _order(record: Record, count: int) -> tuple[str, list[float]]:
    """Which of tiers, ranks and ratings a ranking has, and its numbers."""
    given = [field for field in ORDERS if field in record.data]
    if len(given) != 1:
        what = f"{' and '.join(given)} stand together" if given else "the answers have no order"
        raise DataError(record.where, what, "give one of tiers, ranks, ratings")
    field, values = given[0], record.data[given[0]]
    if not isinstance(values, list):
        raise wrong(
            record, field, f"is {said(values)}, not a list of numbers", "give one number for each answer"
        )
    if len(values) != count:
        raise wrong(
            record, field, f"has {len(values)} numbers for {count} answers", "give one number for each answer"
        )
    numbers = [number(record, f"{field}[{i}]", value) for i, value in enumerate(values)]
    if field != "ratings":
        _check_ranks(record, field, numbers)
    return field, numbers


def _check_ranks(record: Record, field: str, numbers: list[float]) -> None:
    """Whole numbers from 0 or 1 without a gap; ties may be told as 1, 1, 2 or as 1, 1, 3."""
    if any(n != int(n) for n in numbers):
        raise wrong(record, field, "holds a fraction", "give whole numbers, 0 or 1 for the best")
    levels = sorted(set(numbers))
    after_ties = [levels[0] + i for i in range(len(levels))]
    by_place = [levels[0] + sum(n < level for n in numbers) for level in levels]
    if levels[0] not in (0, 1) or levels not in (after_ties, by_place):
        shown = [int(n) for n in numbers]
        raise wrong(record, field, f"{shown} has a gap", "count from 0 or 1 without leaving any out")


def _prompt(record: Record, name: str, context: Context) -> Row:
    prompt = messages(record, "prompt", record.data["prompt"], "user")
    return Prompt(name, prompt, context.name, facts_of(record))


MAKERS: dict[str, Callable[[Record, str, Context], Row | None]] = {
    "messages": _messages,
    "completion": _completion,
    "unpaired": _unpaired,
    "text": _text,
    "pairs": _pair,
    "rankings": _ranking,
    "rating": _rating,
    "stepwise": _stepwise,
    "prompts": _prompt,
}
