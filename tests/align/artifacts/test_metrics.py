"""Rows survive a kill, and a resume goes back to the row of its saved state."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from align.artifacts.metrics import MetricsLog
from align.errors import IntegrityError


def test_a_row_is_on_disk_at_once_and_floats_come_back(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "new" / "metrics.jsonl")
    assert len(log) == 0
    assert log.rows() == []
    log.append({"step": 1, "loss": 0.1 + 0.2})
    assert (tmp_path / "new" / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.30000000000000004}\n'
    log.append({"step": 2, "loss": math.pi})
    assert MetricsLog(log.path).rows() == [
        {"step": 1, "loss": 0.30000000000000004},
        {"step": 2, "loss": math.pi},
    ]
    assert len(log) == len(MetricsLog(log.path)) == 2


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m")
    log.append({"a": math.nan, "b": -math.inf, "c": 1.0})
    assert log.rows() == [{"a": None, "b": None, "c": 1.0}]


def test_a_half_written_line_does_not_count_and_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    log = MetricsLog(path)
    assert len(log) == 1
    assert log.rows() == [{"step": 1}]
    log.append({"step": 2})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_truncate_keeps_the_first_rows(tmp_path: Path, count: int) -> None:
    log = MetricsLog(tmp_path / "m")
    for step in range(3):
        log.append({"step": step, "text": "ü" * step})
    log.truncate(count)
    assert len(log) == count
    assert [row["step"] for row in log.rows()] == list(range(count))
    log.append({"step": 9})
    assert [row["step"] for row in MetricsLog(log.path).rows()] == [*range(count), 9]


def test_truncate_of_nothing(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "m").truncate(0)
    assert not (tmp_path / "m").exists()


def test_lost_rows_are_an_error(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m")
    log.append({"step": 1})
    with pytest.raises(IntegrityError, match="holds 1 rows, but 2 were written"):
        log.truncate(2)


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "m").write_text('{"step": 1}\nx\n')
    with pytest.raises(IntegrityError, match="m:2: is not a row"):
        MetricsLog(tmp_path / "m").rows()


def test_killed_at_every_call_of_an_append(
    tmp_path: Path, run_killed: Callable[[Callable[[], None], int], bool]
) -> None:
    at = 1
    while True:
        path = tmp_path / str(at)
        path.write_text('{"step": 1}\n')
        if not run_killed(partial(_append, path), at):
            break
        assert MetricsLog(path).rows() in ([{"step": 1}], [{"step": 1}, {"step": 2, "loss": 0.5}])
        at += 1
    assert at > 2


def _append(path: Path) -> None:
    MetricsLog(path).append({"step": 2, "loss": 0.5})
