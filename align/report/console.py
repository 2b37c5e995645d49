"""What the terminal shows of a plan and of a run: the plan is data (stdout), progress is not (stderr)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from align.report.numbers import duration
from align.report.progress import StageReporter
from align.report.terminal import PIPE_WIDTH, make_console
from align.report.text import one_line

STATUS_STYLES = {"reused": "green", "new": "cyan", "resumes": "cyan", "changed": "yellow", "waits": "dim"}


class PlanRow(Protocol):
    """One stage of a plan."""

    @property
    def name(self) -> str:
        """Name in the recipe."""

    @property
    def kind(self) -> str:
        """Kind of stage."""

    @property
    def inputs(self) -> Sequence[str]:
        """Names of the stages it reads."""

    @property
    def steps(self) -> int | None:
        """Steps it would take; None where that is not known yet."""

    @property
    def status(self) -> str:
        """Such as `new`, `reused`, `changed: stages.ppo.kl_coef 0.05 -> 0.1`."""


class Plan(Protocol):
    """What a run would do."""

    @property
    def rows(self) -> Sequence[PlanRow]:
        """Stages in the order in which they run."""

    @property
    def footer(self) -> str:
        """Last line."""


def _table(rows: Sequence[PlanRow]) -> Table:
    forecasts = [getattr(row, "seconds", None) for row in rows]
    timed = any(seconds is not None for seconds in forecasts)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("stage", overflow="fold")
    table.add_column("input", overflow="fold")
    table.add_column("steps", justify="right", no_wrap=True)
    if timed:
        table.add_column("time", no_wrap=True)
    table.add_column("status", overflow="fold")
    for row, seconds in zip(rows, forecasts, strict=True):
        name = row.name if row.name == row.kind else f"{row.name} ({row.kind})"
        first_word = row.status.split(":")[0].split(" ")[0]
        cells = [
            one_line(name),
            one_line(", ".join(row.inputs) or "base"),
            "" if row.steps is None else str(row.steps),
        ]
        if timed:
            cells.append("" if seconds is None else f"~{duration(seconds)}")
        table.add_row(*map(Text, cells), Text(one_line(row.status), style=STATUS_STYLES.get(first_word, "")))
    return table


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Print the plan as a table: folded to the terminal's width, or plain unfolded lines in a pipe.

    Rows may carry `seconds`, a forecast; the column is left out where none does.

    Args:
        plan: What would be run.
        console: Where to; default: stdout.
    """
    console = console if console is not None else make_console("stdout")
    table = _table(plan.rows)
    if console.is_terminal:
        console.print(table)
    else:
        # rich fills lines with blanks up to the column's width; nobody wants those in a file.
        buffer = Console(file=io.StringIO(), width=PIPE_WIDTH, color_system=None, force_jupyter=False)
        with buffer.capture() as capture:
            buffer.print(table)
        for line in capture.get().splitlines():
            console.print(Text(line.rstrip()), soft_wrap=True)
    if plan.footer:
        console.print(Text(one_line(plan.footer)), soft_wrap=not console.is_terminal)


def make_reporter(stage: str, index: int, count: int, run_folder: Path) -> StageReporter:
    """The reporter of one stage; close it, or use it as a context manager, whatever way the stage ends.

    Args:
        stage: Name of the stage in the recipe.
        index: Its place in the run, from 1.
        count: Number of stages in the run.
        run_folder: Folder of the run.
    """
    return StageReporter(stage, index, count, run_folder)
