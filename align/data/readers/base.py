"""What readers share: their registry, records with their place, and checked fields."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from align.data.sources import Blob
from align.data.types import Conversation, Message, Prompt, Ranking, Role
from align.errors import DataError
from align.registry import Registry

Rows = Iterator[Conversation | Ranking | Prompt]


@dataclass
class Context:
    """What a reader is told, and where it counts what it leaves out.

    Attributes:
        name: Card or file stem; becomes the `source` of the rows and the head of their ids.
        kind: conversations, rankings or prompts.
        options: Reader options from the card.
        skip_bad: Leave rows with errors out, counted, instead of refusing.
        dropped: Reason -> rows left out.
    """

    name: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    skip_bad: bool = False
    dropped: Counter[str] = field(default_factory=Counter)
    rejects: list[str] = field(default_factory=list)

    def rows(self, records: Iterable[Record], make: Callable[[Record], Any]) -> Iterator[Any]:
        """`make` of each record; an error stops the reading, or is counted with `skip_bad`."""
        for record in records:
            try:
                yield make(record)
            except DataError as error:
                if not self.skip_bad:
                    raise
                self.dropped["bad rows (on_bad_row: skip)"] += 1
                self.rejects.append(str(error))


READERS: Registry[Callable[[Iterable[Blob], Context], Rows]] = Registry("reader")


@dataclass(frozen=True)
class Record:
    """A row as it stands in a file.

    Attributes:
        where: `file:row`, for messages.
        number: Row, from 1.
        fields: Its fields; or, where the row itself cannot be read, the error.
    """

    where: str
    number: int
    fields: dict[str, Any] | DataError

    @property
    def data(self) -> dict[str, Any]:
        """The fields.

        Raises:
            DataError: The row could not be read.
        """
        if isinstance(self.fields, DataError):
            raise self.fields
        return self.fields

    def text(self, name: str, empty: bool = False) -> str:
        """A field that must be a string with something in it.

        Raises:
            DataError: Missing, null, of another type, empty, or with characters that are no text.
        """
        value = self.data.get(name)
        if name not in self.data:
            raise self.error(name, "is missing", "add it")
        if not isinstance(value, str):
            raise self.error(name, f"is {_say(value)}, not text", "give a string")
        if not empty and not value.strip():
            raise self.error(name, "is empty", "fill it or leave the row out")
        return self.clean(name, value)

    def clean(self, name: str, value: str) -> str:
        """Refuse what is no text: NUL and lone surrogates."""
        for bad, what in ((value.find("\x00"), "a NUL"), (_surrogate(value), "half a character (a lone surrogate)")):
            if bad >= 0:
                raise self.error(name, f"holds {what} at character {bad + 1}", "remove it")
        return value

    def number_in(self, name: str, value: Any) -> float:
        """A finite number.

        Raises:
            DataError: Not a number, or not finite.
        """
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(name, f"is {_say(value)}, not a number", "give a number")
        if not math.isfinite(value):
            raise self.error(name, f"is {value}, not a finite number", "give a number or leave the row out")
        return float(value)

    def messages(self, name: str, value: Any, last: Role) -> tuple[Message, ...]:
        """Turns, or a text that is one user turn.

        Raises:
            DataError: Turns in an impossible order, with the number of the turn.
        """
        if isinstance(value, str):
            if last != "user":
                raise self.error(name, "is text, not a list of turns", 'give [{"role": ..., "content": ...}, ...]')
            if not value.strip():
                raise self.error(name, "is empty", "fill it or leave the row out")
            return (Message("user", self.clean(name, value)),)
        if not isinstance(value, list) or not value:
            raise self.error(name, f"is {_say(value)}, not a list of turns", 'give [{"role": ..., "content": ...}, ...]')
        turns = tuple(self._turn(name, i, turn) for i, turn in enumerate(value))
        self._check_order(name, turns, last)
        return turns

    def _turn(self, name: str, i: int, turn: Any) -> Message:
        place = f"{name}[{i}]"
        if not isinstance(turn, dict):
            raise self.error(place, f"is {_say(turn)}, not a turn", 'give {"role": ..., "content": ...}')
        unknown = sorted(set(turn) - {"role", "content", "weight"})
        if unknown:
            raise self.error(place, f"has an unknown key {unknown[0]!r}", "a turn has role, content and weight")
        role, content = turn.get("role"), turn.get("content")
        if role not in ("system", "user", "assistant"):
            raise self.error(f"{place}.role", f"is {role!r}", "give system, user or assistant")
        if not isinstance(content, str) or not content.strip():
            raise self.error(f"{place}.content", "is empty" if content == "" else f"is {_say(content)}", "give text")
        weight = self.number_in(f"{place}.weight", turn.get("weight", 1.0))
        if weight < 0:
            raise self.error(f"{place}.weight", f"is {weight:g}", "give 0 or more")
        return Message(role, self.clean(f"{place}.content", content), weight)

    def _check_order(self, name: str, turns: tuple[Message, ...], last: Role) -> None:
        roles = [t.role for t in turns]
        for i, role in enumerate(roles):
            if role == "system" and i > 0:
                raise self.error(f"{name}[{i}]", "is a system turn behind others", "put it first")
            if i > 0 and role == roles[i - 1]:
                raise self.error(f"{name}[{i}]", f"is a second {role} turn in a row", "join the two")
        talk = [r for r in roles if r != "system"]
        if talk and talk[0] == "assistant" and len(roles) > 1:
            raise self.error(f"{name}[0]", "an assistant turn opens the conversation", "put the user's turn first")
        if roles[-1] != last:
            raise self.error(f"{name}[{len(roles) - 1}]", f"the last turn is the {roles[-1]}'s", f"end with the {last}'s")

    def error(self, name: str, what: str, fix: str) -> DataError:
        """`file:row: field 'x' ...`."""
        return DataError(self.where, f"field {name!r} {what}", fix)


def json_lines(blob: Blob) -> Iterator[Record]:
    """Rows of a JSONL file, or of a JSON array; a BOM is accepted, empty lines are passed over."""
    text = decoded(blob)
    if text.lstrip().startswith("["):
        yield from _json_array(blob, text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield Record(f"{blob.name}:{number}", number, _parsed(line, f"{blob.name}:{number}"))


def _json_array(blob: Blob, text: str) -> Iterator[Record]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{blob.name}:{error.lineno}", f"column {error.colno}: {error.msg}", "mend the JSON") from None
    for number, row in enumerate(rows, start=1):
        where = f"{blob.name}:{number}"
        yield Record(where, number, row if isinstance(row, dict) else DataError(where, f"is {_say(row)}", "give an object"))


def _parsed(line: str, where: str) -> dict[str, Any] | DataError:
    try:
        row = json.loads(line, object_pairs_hook=_no_doubles)
    except json.JSONDecodeError as error:
        cut = " (the line is cut off)" if error.pos >= len(line.rstrip()) else ""
        return DataError(where, f"column {error.colno}: {error.msg}{cut}", "mend the line, or on_bad_row: skip")
    except (ValueError, RecursionError) as error:
        return DataError(where, str(error).split("\n")[0], "mend the line, or on_bad_row: skip")
    if not isinstance(row, dict):
        return DataError(where, f"is {_say(row)}, not an object", "give one JSON object per line")
    return row


def _no_doubles(items: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(items)
    if len(row) != len(items):
        name = next(k for k, n in Counter(k for k, _ in items).items() if n > 1)
        raise ValueError(f"field {name!r} stands twice")
    return row


def csv_rows(blob: Blob, comment: str = "#") -> Iterator[Record]:
    """Rows of a CSV file; a first line that opens with `comment` is passed over."""
    text = decoded(blob)
    if text.startswith(comment):
        text = text.split("\n", 1)[1] if "\n" in text else ""
    csv.field_size_limit(16 * 2**20)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for number, row in enumerate(reader, start=1):
            where = f"{blob.name}:{number}"
            if None in row or None in row.values():
                yield Record(where, number, DataError(where, "has another number of fields than the head", "mend the row"))
            else:
                yield Record(where, number, dict(row))
    except csv.Error as error:
        raise DataError(f"{blob.name}:{reader.line_num}", f"broken CSV: {error}", "mend the quotes") from None


def parquet_rows(blob: Blob) -> Iterator[Record]:
    """Rows of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(blob.content))
        groups = file.num_row_groups
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(blob.name, f"no readable Parquet file: {str(error).splitlines()[0]}", "get another copy") from None
    number = 0
    for group in range(groups):
        try:
            rows = file.read_row_group(group).to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(
                f"{blob.name}: row group {group}", f"cannot be read: {str(error).splitlines()[0]}", "get another copy"
            ) from None
        for row in rows:
            number += 1
            yield Record(f"{blob.name}:{number}", number, {k: v for k, v in row.items() if v is not None})


def records(blob: Blob) -> Iterator[Record]:
    """Rows of a file by its suffix, .gz and .zst apart."""
    name = blob.name.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".csv"):
        return csv_rows(blob)
    if name.endswith(".parquet"):
        return parquet_rows(blob)
    if name.endswith((".jsonl", ".json")):
        return json_lines(blob)
    raise DataError(blob.name, "of no known kind", "give a .jsonl, .json, .csv or .parquet file (.gz and .zst too)")


def decoded(blob: Blob) -> str:
    """UTF-8 text, a BOM taken away.

    Raises:
        DataError: With the line and the byte offset.
    """
    try:
        return blob.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = blob.content[: error.start].count(b"\n") + 1
        raise DataError(f"{blob.name}:{line}", f"byte {error.start} is not UTF-8", "save the file as UTF-8") from None


def _say(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _surrogate(text: str) -> int:
    return next((i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff"), -1)
