"""Passes over fixed rows: each row once, the last batch smaller where they do not fit."""

from __future__ import annotations

from align.data.types import Response, TokenRow
from align.engine.batch import Budget
from align.objectives.reduce import Loss
from align.training.supervised import SupervisedTask, steps


def test_each_row_once_a_pass_in_another_order() -> None:
    rows = [TokenRow(str(n), (5,), (Response((4, 2), (1.0, 1.0)),)) for n in range(7)]

    def unused(*_: object) -> Loss:
        raise AssertionError("no loss is asked for")

    task = SupervisedTask([], rows, 2, 3, Budget(64), 0, unused, len, {})
    assert task.total == steps(7, 2, 3) == 2 * 3
    seen = []
    for step in range(task.total):
        micros, count = task.micros(step)
        names = [name for micro in micros for name in micro.names]
        assert count == len(names) == (1 if step % 3 == 2 else 3)
        seen += names
    assert sorted(seen[:7]) == sorted(seen[7:]) == [row.id for row in rows]
    assert seen[:7] != seen[7:]
