"""What a row of prompts may carry beside the prompt, for whoever scores the answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from align.data.fields import checked, number, texts, wrong
from align.data.records import Record, said


def facts_of(record: Record) -> dict[str, Any]:
    """The facts of a row: `answer` as text, `constraints`, `tests` as a list of texts, `schema`.

    Raises:
        DataError: One of them is of another type.
    """
    return {name: read(record, name) for name, read in FACTS.items() if name in record.data}


def _answer(record: Record, name: str) -> str:
    """The right answer; a number stands for how it is written."""
    value = record.data[name]
    if isinstance(value, bool | list | dict) or value is None:
        fix = "give the right answer, or call the answers of a ranking answers"
        raise wrong(record, name, f"is {said(value)}, not text or a number", fix)
    if isinstance(value, str):
        return checked(record, name, value)
    number(record, name, value)  # NaN is one to Python's JSON
    return str(value)


def _constraints(record: Record, name: str) -> list[dict[str, Any]]:
    value = record.data[name]
    fix = 'give [{"name": "words", "at_most": 50}, ...]'
    if not isinstance(value, list) or not value:
        what = "is an empty list" if value == [] else f"is {said(value)}, not a list of constraints"
        raise wrong(record, name, what, fix)
    for i, item in enumerate(value):
        if not isinstance(item, dict):
            raise wrong(record, f"{name}[{i}]", f"is {said(item)}, not a constraint", fix)
        if not isinstance(item.get("name"), str):
            raise wrong(record, f"{name}[{i}].name", "is missing or no text", fix)
    return value


def _tests(record: Record, name: str) -> list[str]:
    """Python sources, each of which passes if it raises nothing; a text stands for a list of one."""
    if isinstance(record.data[name], str):
        return [checked(record, name, record.data[name])]
    found = texts(record, name)
    if not found:
        raise wrong(record, name, "is an empty list", "give tests, or leave the field out")
    return found


def _schema(record: Record, name: str) -> dict[str, Any]:
    value = record.data[name]
    if not isinstance(value, dict):
        raise wrong(record, name, f"is {said(value)}, not an object", "give a JSON Schema")
    return value


FACTS: dict[str, Callable[[Record, str], Any]] = {
    "answer": _answer,
    "constraints": _constraints,
    "tests": _tests,
    "schema": _schema,
}
