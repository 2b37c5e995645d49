"""Rows of named numbers, one JSON object a line, appended while a stage runs."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import IO, Any

from align.artifacts.disk import guard
from align.errors import IntegrityError

_FIX = "remove the folder to start the stage anew"


class MetricsLog:
    """A file of rows. A line that a killed process left half written does not count.

    Attributes:
        path: The file; made with its folder at the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None
        self._count = len(self._lines())

    def __len__(self) -> int:
        return self._count

    def append(self, row: dict[str, Any]) -> None:
        """Write one row and flush it; a number that is not finite is written as null, for JSON has none.

        Raises:
            ResourceError: The disk refuses.
        """
        text = json.dumps(json_safe(row), allow_nan=False)
        with guard(self.path):
            file = self._open()
            file.write(text + "\n")
            file.flush()
        self._count += 1

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows.

        Raises:
            IntegrityError: A line that is no JSON; it is named.
        """
        found = []
        for number, line in enumerate(self._lines(), 1):
            try:
                found.append(json.loads(line))
            except ValueError:
                raise IntegrityError(f"{self.path}:{number}", "is not a row of JSON", _FIX) from None
        return found

    def truncate(self, count: int) -> None:
        """Keep the first `count` rows, as they stood when a state was saved.

        Raises:
            IntegrityError: Fewer rows are there.
        """
        lines = self._lines()
        if len(lines) < count:
            what = f"holds {len(lines)} rows, but {count} were written before the saved state"
            raise IntegrityError(str(self.path), what, _FIX)
        self.close()
        if self.path.exists():
            with guard(self.path):
                os.truncate(self.path, sum(len(line) for line in lines[:count]))
        self._count = count

    def sync(self) -> None:
        """Make the rows durable."""
        if self._file is not None:
            with guard(self.path):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file; the next row opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> IO[str]:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                os.truncate(self.path, sum(len(line) for line in self._lines()))
            self._file = self.path.open("a", encoding="utf-8")
        return self._file

    def _lines(self) -> list[bytes]:
        """Whole lines, newline included."""
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines


def json_safe(value: Any) -> Any:
    """The value with None in place of each number that is not finite, for JSON has none.

    Example:
        >>> json_safe({"a": [1.5, float("nan")]})
        {'a': [1.5, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: json_safe(part) for name, part in value.items()}
    return [json_safe(part) for part in value] if isinstance(value, list | tuple) else value
