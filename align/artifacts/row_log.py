"""Rows that a stage makes one after another, appended as they are made; a killed stage goes on behind."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align.artifacts.disk import guard

HASH = 16  # hex digits in front of each line


class RowLog:
    """A file of rows by name, each line with its hash. A line that is torn or changed does not count.

    Attributes:
        path: The file; made with its folder at the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, dict[str, Any]] = {}
        self._read()

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._rows[name]

    def append(self, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Write named rows down; they are durable when this returns.

        Raises:
            ResourceError: The disk refuses.
        """
        lines = []
        for name, row in rows:
            text = json.dumps([name, row], ensure_ascii=False, allow_nan=False)
            lines.append(f"{_hash(text)} {text}\n")
            self._rows[name] = dict(row)
        with guard(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
                file.flush()
                os.fsync(file.fileno())

    def _read(self) -> None:
        if not self.path.exists():
            return
        with guard(self.path):
            blob = self.path.read_bytes()
            whole = blob[: blob.rfind(b"\n") + 1]
            if len(whole) < len(blob):  # what comes next starts a line of its own
                os.truncate(self.path, len(whole))
        for line in whole.decode("utf-8", errors="replace").split("\n"):
            digest, _, text = line.partition(" ")
            if digest == _hash(text):
                name, row = json.loads(text)
                self._rows[name] = row


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:HASH]
