"""Passes over fixed rows: each row once, the last batch smaller where they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.data.types import Response, TokenRow
from align.engine.batch import Budget
from align.objectives.reduce import Loss
from align.training.supervised import Anchor, SupervisedTask, batches, steps


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


class Seen(Anchor):
    """An anchor that keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, int, list[str], int]] = []

    def before(self, step: int, epoch: int, rows: list[TokenRow], budget: Budget) -> None:
        """Keep the step."""
        self.shown.append((step, epoch, [row.id for row in rows], budget.tokens))

    def after(self, metrics: dict[str, float]) -> dict[str, float]:
        """How many steps were shown."""
        return {**metrics, "shown": len(self.shown)}

    def state(self) -> dict[str, Any]:
        """All of it."""
        return {"shown": list(self.shown)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        self.shown = list(state["shown"])


def test_an_anchor_sees_whole_steps_before_their_first_part() -> None:
    rows = [TokenRow(str(n), (5,), (Response((4, 2), (1.0, 1.0)),)) for n in range(5)]
    anchor = Seen()

    def objective(*_: object) -> Loss:
        raise AssertionError("no loss is asked for")

    task = SupervisedTask([], rows, 2, 3, Budget(3), 0, objective, len, {}, anchor)
    for step in (0, 1, 3):
        micros, _ = task.micros(step)
        assert len(list(micros)) == len(batches(rows, 0, step // 2, 3)[step % 2]), "each row is a part"
    ids = [[[row.id for row in part] for part in batches(rows, 0, epoch, 3)] for epoch in (0, 1)]
    assert anchor.shown == [(0, 0, ids[0][0], 3), (1, 0, ids[0][1], 3), (3, 1, ids[1][1], 3)]
    assert task.halve() == 1
    task.micros(0)
    assert anchor.shown[-1] == (0, 0, ids[0][0], 1), "the step that is done again"
    assert task.after(0, {"loss": 1.0}) == {"loss": 1.0, "shown": 4}
    again = SupervisedTask([], rows, 2, 3, Budget(3), 0, objective, len, {}, Seen())
    again.load(task.state(), {})
    assert again.state() == task.state() != {}
