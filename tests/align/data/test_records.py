"""Rows of JSON lines, JSON arrays, CSV and Parquet are the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from align.data.records import records
from align.data.sources import local

ROWS = [{"prompt": "a, b", "answer": 'two\nlines "quoted"'}, {"prompt": "ü", "answer": "c"}]


def write_jsonl(path: Path) -> None:
    path.write_text("\n" + "\n".join(json.dumps(row) for row in ROWS))


def write_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=1))


def write_csv(path: Path) -> None:
    path.write_text('# a comment\nprompt,answer\n"a, b","two\nlines ""quoted"""\nü,c\n', encoding="utf-8")


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=1)


@pytest.mark.parametrize(
    ("suffix", "write", "keys"),
    [
        ("jsonl", write_jsonl, ["2", "3"]),  # the first line is empty
        ("json", write_json, ["1", "2"]),
        ("csv", write_csv, ["1", "2"]),
        ("parquet", write_parquet, ["1", "2"]),
    ],
)
def test_formats(suffix: str, write: Any, keys: list[str], tmp_path: Path) -> None:
    path = tmp_path / f"rows.{suffix}"
    write(path)
    found = list(records(local(path)))
    assert [record.data for record in found] == ROWS
    assert [record.key for record in found] == keys


def test_json_lines_under_the_suffix_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    write_jsonl(path)
    assert [record.data for record in records(local(path))] == ROWS


def test_null_in_a_table_counts_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([{"a": "x", "b": None}, {"a": "y", "b": "z"}]), path)
    assert [record.data for record in records(local(path))] == [{"a": "x"}, {"a": "y", "b": "z"}]


def test_a_bad_line_does_not_hide_the_next(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\nnone\n{"a": 2}\n')
    first, bad, last = records(local(path))
    assert (first.data, last.data) == ({"a": 1}, {"a": 2})
    assert isinstance(bad.content, Exception)
    assert bad.raw == "none"
