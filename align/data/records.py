"""From files to records: JSON lines, JSON arrays, CSV, Parquet and plain text, each row with its place.

A row that cannot be read is a record with its error, so that whoever reads decides whether to refuse it or to
leave it out; a file that cannot be read is refused here.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from align.data.sources import MAX_LINE, Blob, Line
from align.errors import DataError

MAX_COLUMNS = 1000
MAX_FOOTER = 16 * 2**20  # bytes, of a Parquet file
PARQUET_ROWS = 64  # at a time
SPACE = re.compile(r"[ \t\n\r]*")
MEND = "mend the line, or on_bad_row: skip"


@dataclass(frozen=True)
class Record:
    """A row as it stands in a file.

    Attributes:
        where: `file:row`, for messages.
        key: Row number, with the file's number before it in all but the first file of a source.
        content: Its fields; or, where the row itself cannot be read, the error.
        raw: Beginning of the text of a row that cannot be read.
        names: Our name of a field -> the file's, where a card says they differ.
    """

    where: str
    key: str
    content: dict[str, Any] | DataError
    raw: str = ""
    names: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, Any]:
        """The fields.

        Raises:
            DataError: The row could not be read.
        """
        if isinstance(self.content, DataError):
            raise self.content
        return self.content


def records(blob: Blob) -> Iterator[Record]:
    """Rows of a file by its suffix, .gz and .zst apart.

    Raises:
        DataError: The file as a whole cannot be read.
    """
    name = blob.name.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".csv"):
        return _csv(blob)
    if name.endswith(".parquet"):
        return _parquet(blob)
    if name.endswith(".jsonl"):
        return _json_lines(blob)
    if name.endswith(".json"):
        return _json(blob)
    if name.endswith(".txt"):
        return _document(blob)
    raise DataError(
        blob.name, "of no known kind", "give a .jsonl, .json, .csv, .parquet or .txt file (.gz and .zst too)"
    )


def _document(blob: Blob) -> Iterator[Record]:
    """One row, whose `text` is the whole file."""
    try:
        yield Record(blob.name, "1", {"text": blob.whole().decode("utf-8-sig")})
    except UnicodeDecodeError as error:
        raise _not_utf8(blob, error) from None


def _not_utf8(blob: Blob, error: UnicodeDecodeError) -> DataError:
    return DataError(blob.name, f"byte {error.start} of the file is not UTF-8", "save the file as UTF-8")


def _json_lines(blob: Blob) -> Iterator[Record]:
    """Empty lines are passed over."""
    for line in blob.lines():
        if line.content.strip():
            where = f"{blob.name}:{line.number}"
            content = _parsed(line, where)
            raw = line.content[:1000].decode("utf-8", "replace") if isinstance(content, DataError) else ""
            yield Record(where, str(line.number), content, raw)


def _parsed(line: Line, where: str) -> dict[str, Any] | DataError:
    try:
        text = line.content.decode("utf-8")
        row = json.loads(text, object_pairs_hook=_no_doubles)
    except UnicodeDecodeError as error:
        return DataError(
            where, f"byte {line.offset + error.start} of the file is not UTF-8", "save the file as UTF-8"
        )
    except json.JSONDecodeError as error:
        cut = " (the line is cut off)" if error.pos >= len(text.rstrip()) else ""
        return DataError(where, f"column {error.colno}: {error.msg}{cut}", MEND)
    except (ValueError, RecursionError) as error:
        return DataError(where, _why(error), MEND)
    return (
        row
        if isinstance(row, dict)
        else DataError(where, f"is {said(row)}, not an object", "give one JSON object per line")
    )


def _why(error: ValueError | RecursionError) -> str:
    """What is wrong with JSON whose syntax is right."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    return "holds an integer of too many digits" if "integer string" in str(error) else str(error)


def _no_doubles(items: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(items)
    if len(row) != len(items):
        name = next(k for k, n in Counter(k for k, _ in items).items() if n > 1)
        raise ValueError(f"field {name!r} stands twice")
    return row


def _json(blob: Blob) -> Iterator[Record]:
    """A JSON array, or JSON lines under the suffix .json."""
    with blob.open() as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head.startswith(b"["):
        yield from _json_lines(blob)
        return
    try:
        text = blob.whole().decode("utf-8-sig")
        for number, row in enumerate(_elements(text), start=1):
            where = f"{blob.name}: row {number}"
            wrong = None if isinstance(row, dict) else DataError(where, f"is {said(row)}", "give an object")
            yield Record(where, str(number), wrong or row)
    except UnicodeDecodeError as error:
        raise _not_utf8(blob, error) from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{blob.name}:{error.lineno}", f"column {error.colno}: {error.msg}", "mend the JSON"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(blob.name, _why(error), "mend the JSON") from None


def _elements(text: str) -> Iterator[Any]:
    """The values of a JSON array, one at a time, so that only one is in memory."""
    decode = json.JSONDecoder(object_pairs_hook=_no_doubles).raw_decode
    place = _after_space(text, text.index("[") + 1)
    if text[place : place + 1] == "]":
        return
    while True:
        value, place = decode(text, place)
        yield value
        place = _after_space(text, place)
        if text[place : place + 1] == "]":
            break
        if text[place : place + 1] != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
        place = _after_space(text, place + 1)
    if text[place + 1 :].strip():
        raise json.JSONDecodeError("Extra data", text, place + 1)


def _after_space(text: str, place: int) -> int:
    found = SPACE.match(text, place)
    return found.end() if found else place


def _csv(blob: Blob) -> Iterator[Record]:
    """A first line that opens with `#` is passed over; a row may span several lines."""
    csv.field_size_limit(MAX_LINE)
    reader = csv.DictReader(_text_lines(blob), strict=True)
    number = 0
    try:
        _check_head(blob.name, reader.fieldnames or ())
        for row in reader:
            number += 1
            where = f"{blob.name}: row {number}"
            if None in row or None in row.values():
                yield Record(
                    where,
                    str(number),
                    DataError(where, "has another number of fields than the head", "mend the row"),
                )
            else:
                yield Record(where, str(number), dict(row))
    except csv.Error as error:
        raise DataError(f"{blob.name}: row {number + 1}", f"broken CSV: {error}", "mend the quotes") from None


def _check_head(name: str, columns: Sequence[str]) -> None:
    if len(columns) > MAX_COLUMNS:
        raise DataError(name, f"has more than {MAX_COLUMNS} columns", "give a table of texts")
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise DataError(name, f"column {twice[0]!r} stands twice", "rename or remove one")


def _text_lines(blob: Blob) -> Iterator[str]:
    for line in blob.lines():
        if line.number == 1 and line.content.startswith(b"#"):
            continue
        try:
            yield line.content.decode("utf-8") + "\n"
        except UnicodeDecodeError as error:
            place = line.offset + error.start
            raise DataError(
                f"{blob.name}:{line.number}",
                f"byte {place} of the file is not UTF-8",
                "save the file as UTF-8",
            ) from None


def _parquet(blob: Blob) -> Iterator[Record]:
    """Null counts as missing, since a table has a cell for every field."""
    with blob.open() as file:
        table = _table(blob.name, file)
        for number, row in enumerate(_rows(blob, table), start=1):
            filled = {k: v for k, v in row.items() if v is not None}
            yield Record(f"{blob.name}: row {number}", str(number), filled)


def _rows(blob: Blob, table: Any) -> Iterator[dict[str, Any]]:
    """Rows of all row groups, within the limit of what they unfold to."""
    unfolded = 0
    for group in range(table.num_row_groups):
        for batch in _batches(blob.name, table, group):
            unfolded += sum(_unfolded(column) for column in batch.columns)
            if unfolded > blob.most:
                what = f"unfolds to more than {blob.most >> 20:,} MB"
                raise DataError(f"{blob.name}: row group {group}", what, "cut it into several files")
            yield from batch.to_pylist()


def _table(name: str, file: IO[bytes]) -> Any:
    """The open Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not file.seekable():
        raise DataError(name, "is a compressed Parquet file", "Parquet compresses itself: unpack it")
    file.seek(max(0, file.seek(0, 2) - 8))
    footer = int.from_bytes(file.read(4), "little")
    try:
        if footer > MAX_FOOTER:
            raise ValueError(f"its footer claims {footer >> 20} MB")
        file.seek(0)
        flat = [field.name for field in pq.read_schema(file) if pa.types.is_string(field.type)]
        file.seek(0)
        table = pq.ParquetFile(file, read_dictionary=flat)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            name, f"no readable Parquet file: {str(error).splitlines()[0]}", "get another copy"
        ) from None
    if table.metadata.num_columns > MAX_COLUMNS:
        raise DataError(name, f"has more than {MAX_COLUMNS} columns", "give a table of texts")
    return table


def _batches(name: str, table: Any, group: int) -> Iterator[Any]:
    """A few rows at a time, texts still as references into their dictionary."""
    import pyarrow as pa

    try:
        yield from table.iter_batches(batch_size=PARQUET_ROWS, row_groups=[group])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{name}: row group {group}", f"cannot be read: {str(error).splitlines()[0]}", "get another copy"
        ) from None


def _unfolded(column: Any) -> int:
    """Bytes of a column once each row has a copy of its value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    if not pa.types.is_string(column.type.value_type):
        return int(column.cast(column.type.value_type).nbytes)
    return int(pc.sum(pc.take(pc.binary_length(column.dictionary), column.indices)).as_py() or 0)


def said(value: Any) -> str:
    """What a value is, in the words of a message."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)
