"""Checked access to the fields of a record: text, numbers, texts in a list, turns."""

from __future__ import annotations

import re
from typing import Any

from align.data.records import Record, said
from align.data.types import Message, Role
from align.errors import DataError

TURNS = 'give [{"role": ..., "content": ...}, ...]'
NO_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]|[\ud800-\udfff]")


def wrong(record: Record, name: str, what: str, fix: str) -> DataError:
    """`file:row: field 'x' ...`, by the name that the file has for it."""
    head = re.split(r"[.\[]", name)[0]
    shown = record.names.get(head, head) + name[len(head) :]
    return DataError(record.where, f"field {shown!r} {what}", fix)


def text(record: Record, name: str) -> str:
    """A field that must be a string with something in it.

    Raises:
        DataError: Missing, null, of another type, empty, or with characters that are no text.
    """
    if name not in record.data:
        raise wrong(record, name, "is missing", "add it")
    return checked(record, name, record.data[name])


def checked(record: Record, name: str, value: Any) -> str:
    """A value that must be a string with something in it; `name` may lead inside a field.

    Raises:
        DataError: Null, of another type, empty, or with characters that are no text.
    """
    if not isinstance(value, str):
        raise wrong(record, name, f"is {said(value)}, not text", "give a string")
    if not value.strip():
        raise wrong(record, name, "is empty", "fill it or leave the row out")
    bad = NO_TEXT.search(value)
    if bad:
        code = ord(bad.group())
        what = (
            "half a character (a lone surrogate)" if code >= 0xD800 else f"the control character U+{code:04X}"
        )
        raise wrong(record, name, f"holds {what} at character {bad.start() + 1}", "remove it")
    return value


def texts(record: Record, name: str) -> list[str]:
    """A field that must be a list of strings, each with something in it.

    Raises:
        DataError: It is not.
    """
    value = record.data.get(name)
    if name not in record.data:
        raise wrong(record, name, "is missing", "add it")
    if not isinstance(value, list):
        raise wrong(record, name, f"is {said(value)}, not a list of texts", "give a list of strings")
    return [checked(record, f"{name}[{i}]", item) for i, item in enumerate(value)]


def number(record: Record, name: str, value: Any) -> float:
    """A finite number.

    Raises:
        DataError: Not a number, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong(record, name, f"is {said(value)}, not a number", "give a number")
    if not abs(value) < 1e300:  # also what JSON calls NaN, and integers that no float holds
        shown = f"{value}" if isinstance(value, float) else "an integer too large for a score"
        raise wrong(record, name, f"is {shown}", "give a finite number or leave the row out")
    return float(value)


def cell(record: Record, name: str) -> float:
    """A field that must be a finite number, or one that a cell of a table holds as text.

    Raises:
        DataError: Not a number, or not finite.
    """
    value = record.data[name]
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            what = f"is {value[:40]!r}, not a number" if value.strip() else "is empty"
            raise wrong(record, name, what, "give a number") from None
    return number(record, name, value)


def messages(record: Record, name: str, value: Any, last: Role) -> tuple[Message, ...]:
    """Turns, or a text that is one user turn.

    Args:
        record: Where it stands.
        name: The field.
        value: What stands there.
        last: Who must have the last turn.

    Raises:
        DataError: Turns in an impossible order, with the number of the turn.
    """
    if isinstance(value, str) and last == "user":
        return (Message("user", checked(record, name, value)),)
    if not isinstance(value, list):
        raise wrong(record, name, f"is {said(value)}, not a list of turns", TURNS)
    if not value:
        raise wrong(record, name, "is an empty conversation", "add turns or leave the row out")
    turns = tuple(_turn(record, f"{name}[{i}]", turn) for i, turn in enumerate(value))
    _check_order(record, name, [turn.role for turn in turns], last)
    return turns


def _turn(record: Record, place: str, turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise wrong(record, place, f"is {said(turn)}, not a turn", 'give {"role": ..., "content": ...}')
    unknown = sorted(set(turn) - {"role", "content", "weight"})
    if unknown:
        raise wrong(
            record, place, f"has an unknown key {unknown[0]!r}", "a turn has role, content and weight"
        )
    role = turn.get("role")
    if role not in ("system", "user", "assistant"):
        raise wrong(record, f"{place}.role", f"is {role!r}", "give system, user or assistant")
    content = checked(record, f"{place}.content", turn.get("content"))
    weight = number(record, f"{place}.weight", turn.get("weight", 1.0))
    if weight < 0:
        raise wrong(record, f"{place}.weight", f"is {weight:g}", "give 0 or more")
    return Message(role, content, weight)


def _check_order(record: Record, name: str, roles: list[Role], last: Role) -> None:
    for i, role in enumerate(roles):
        if role == "system" and i > 0:
            raise wrong(record, f"{name}[{i}]", "is a system turn behind others", "put it first")
        if i > 0 and role == roles[i - 1]:
            raise wrong(record, f"{name}[{i}]", f"is a second {role} turn in a row", "join the two")
    talk = [role for role in roles if role != "system"]
    if talk[:1] == ["assistant"] and len(roles) > 1:
        place = roles.index("assistant")
        raise wrong(
            record,
            f"{name}[{place}]",
            "is an assistant turn before any user turn",
            "put the user's turn first",
        )
    if roles[-1] != last:
        raise wrong(
            record,
            f"{name}[{len(roles) - 1}]",
            f"is the {roles[-1]}'s and the last turn",
            f"end with the {last}'s",
        )
