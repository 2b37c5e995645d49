"""What readers share: their registry, what they are told, and where they count what they leave out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from align.config.base import Strict
from align.data.records import Record, records
from align.data.sources import Blob
from align.data.types import Conversation, Labelled, Prompt, Ranking, Stepwise
from align.errors import DataError, raise_all
from align.registry import Registry

Row = Conversation | Ranking | Labelled | Stepwise | Prompt
Rows = Iterator[Row]
T = TypeVar("T")
SHOWN = 5  # errors of a file that are shown at once, rows that are named as examples


class NoOptions(Strict):
    """Of a reader that has none."""


@dataclass(frozen=True)
class Reject:
    """A bad row that was left out: its place, why, and what stands there."""

    where: str
    reason: str
    row: Any


@dataclass
class Context:
    """What a reader is told, and where it counts what it leaves out.

    Attributes:
        name: Card or file stem; becomes the `source` of the rows and the head of their ids.
        kind: conversations, rankings, unpaired, stepwise or prompts.
        options: Of the reader.
        fields: Our name of a field -> the file's name.
        skip_bad: Leave rows with errors out, counted, instead of refusing.
        dropped: Reason -> faulty rows left out; they count against `max_drop`.
        left_out: Reason -> sound rows that the card's rule leaves out.
        examples: Places of the first rows dropped.
        rejects: What was left out because of `skip_bad`.
    """

    name: str
    kind: str
    options: Any = field(default_factory=NoOptions)
    fields: dict[str, str] = field(default_factory=dict)
    skip_bad: bool = False
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    def rows(self, blobs: Iterable[Blob], make: Callable[[Record], T | None]) -> Iterator[T]:
        """`make` of each record of each file; None leaves a record out.

        Raises:
            DataError: A bad row where bad rows are refused; up to five are shown.
        """
        errors: list[DataError] = []
        for record in self._records(blobs):
            try:
                made = make(record)
            except DataError as error:
                if self.skip_bad:
                    self._reject(record, error)
                    continue
                errors.append(error)
                if len(errors) == SHOWN:
                    break
                continue
            if made is not None:
                yield made
        raise_all(errors)

    def drop(self, record: Record, reason: str) -> None:
        """Count a faulty row that is left out."""
        self.dropped[reason] += 1
        if len(self.examples) < SHOWN:
            self.examples.append(record.where)

    def _reject(self, record: Record, error: DataError) -> None:
        self.drop(record, "bad rows")
        row = record.raw if isinstance(record.content, DataError) else record.content
        self.rejects.append(Reject(record.where, f"{error.what}; {error.fix}", row))

    def _records(self, blobs: Iterable[Blob]) -> Iterator[Record]:
        for number, blob in enumerate(blobs, start=1):
            for record in records(blob):
                keyed = record if number == 1 else replace(record, key=f"{number}.{record.key}")
                yield self._renamed(keyed) if self.fields else keyed

    def _renamed(self, record: Record) -> Record:
        """The record under our names of its fields."""
        if isinstance(record.content, DataError):
            return record
        ours = {theirs: name for name, theirs in self.fields.items()}
        renamed = {k: v for k, v in record.content.items() if k not in ours and k not in self.fields}
        renamed |= {ours[k]: v for k, v in record.content.items() if k in ours}
        return replace(record, content=renamed, names=self.fields)


@dataclass(frozen=True)
class Reader:
    """Turns the files of a source into rows.

    Attributes:
        read: (files, context) -> rows.
        options: What a card may set for it.
    """

    read: Callable[[Iterable[Blob], Context], Rows]
    options: type[Strict]


READERS: Registry[Reader] = Registry("reader")


def reader(
    name: str, options: type[Strict] = NoOptions
) -> Callable[[Callable[[Iterable[Blob], Context], Rows]], Callable[[Iterable[Blob], Context], Rows]]:
    """Decorator that files a reading function under a name."""

    def add(read: Callable[[Iterable[Blob], Context], Rows]) -> Callable[[Iterable[Blob], Context], Rows]:
        READERS.register(name)(Reader(read, options))
        return read

    return add
