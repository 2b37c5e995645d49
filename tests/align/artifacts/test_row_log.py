"""A log of rows: what is torn or changed does not count, and nothing else is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.artifacts.row_log import RowLog

ROWS = [
    ("a/1", {"text": "één\u2028line", "score": 0.1}),
    ("b", {"text": "", "score": None}),
    ("c", {"n": [1, 2]}),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "work" / "rows.jsonl"
    log = RowLog(found)
    assert len(log) == 0
    log.append(ROWS[:2])
    log.append(ROWS[2:])
    return found


def test_rows_come_back_as_they_were(path: Path) -> None:
    log = RowLog(path)
    assert [(name, log[name]) for name, _ in ROWS] == ROWS
    assert len(log) == 3
    assert "d" not in log


def test_every_cut_of_the_file_leaves_the_whole_rows_before_it(path: Path) -> None:
    blob = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(blob) if byte == 10]
    for size in range(len(blob)):
        path.write_bytes(blob[:size])
        log = RowLog(path)
        assert len(log) == sum(end <= size for end in ends)
        missing = [row for row in ROWS if row[0] not in log]
        log.append(missing)
        assert path.read_bytes() == blob, "goes on as if nothing had been cut"


def test_a_changed_line_does_not_count_and_the_others_do(path: Path) -> None:
    path.write_text(path.read_text().replace("0.1", "0.7"))
    log = RowLog(path)
    assert "a/1" not in log
    assert "b" in log
    assert "c" in log
