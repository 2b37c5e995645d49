"""Progress: what is drawn when, what is written, and what may break without harm."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from align.report.progress import StageReporter
from align.report.terminal import PIPE_WIDTH


class Clock:
    """A clock that a test winds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A reporter with its clock and its screen."""

    def __init__(self, folder: Path, terminal: bool, width: int = 80) -> None:
        self.clock, self.screen, self.folder = Clock(), io.StringIO(), folder
        console = Console(
            file=self.screen,
            force_terminal=terminal,
            width=width if terminal else PIPE_WIDTH,
            color_system=None,
            highlight=False,
        )
        self.reporter = StageReporter("ppo", 3, 4, folder, clock=self.clock, console=console)

    def step(self, step: int, total: int, after: float = 0.0, tokens: int = 0, **headline: float) -> None:
        self.clock.now += after
        self.reporter.step(step, total, headline, tokens)

    @property
    def lines(self) -> list[str]:
        return self.screen.getvalue().splitlines()

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


Make = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Make:
    return lambda terminal=False, width=80: Bench(tmp_path, terminal, width)


def test_without_a_terminal_one_line_each_thirty_seconds(bench: Make) -> None:
    b = bench()
    for step in range(1, 11):
        b.step(step, 10, after=7.0, reward=0.1 * step)
    # Steps end at 7, 14, ... 70 s: the first line at 35 s, the next at 70 s, which is also the last.
    assert b.lines == [
        "[3/4] ppo starts",
        "[3/4] ppo 5/10 50% | reward 0.5 | 7 s/step | ETA 35 s",
        "[3/4] ppo 10/10 100% | reward 1 | 7 s/step | took 1 min 10 s",
    ]


def test_rate_in_tokens_and_eta_come_from_the_last_steps(bench: Make) -> None:
    b = bench()
    b.step(81, 200, after=500.0, tokens=400, reward=0.5)  # a resumed run: what came before is not measured
    b.step(82, 200, after=10.0, tokens=300)
    b.step(84, 200, after=20.0, tokens=300, reward=0.614, KL=3.25)
    # 3 steps and 600 tokens in 30 s: 20 tokens/s; 116 steps left at 10 s each.
    assert b.lines[-1] == "[3/4] ppo 84/200 42% | reward 0.614 | KL 3.25 | 20 tok/s | ETA 19 min"


def test_fast_steps_are_counted_by_the_second(bench: Make) -> None:
    b = bench()
    for step in (1, 2, 3):
        b.step(step, 3, after=0.25)
    assert "| 4 steps/s |" in b.lines[-1]


def test_a_terminal_has_one_live_line_drawn_at_most_five_times_a_second(bench: Make) -> None:
    b = bench(terminal=True)
    for step in range(1, 81):
        b.step(step, 1000, after=1 / 16)
    text = b.screen.getvalue()
    assert text.count("\n") == 1  # the line that says that it starts
    # A sixteenth of a second each: every fourth step is 0.25 s after the last drawing, the third too early.
    assert text.count("/1000 ") == 20
    assert text.count("\r\x1b[2K") == 19
    b.reporter.close()
    assert b.screen.getvalue().endswith("\r\x1b[2K")


def test_the_live_line_fits_the_terminal(bench: Make) -> None:
    b = bench(terminal=True, width=30)
    b.step(1, 2, after=1.0, **{"a rather long name of a number": 1.0})
    live = b.screen.getvalue().splitlines()[-1]
    assert len(live) == 29
    assert live.startswith("[3/4] ppo 1/2 50% |")


def test_notes_do_not_mix_with_the_live_line(bench: Make) -> None:
    b = bench(terminal=True)
    b.step(1, 9, after=1.0)
    b.reporter.note("head fitted")
    assert b.screen.getvalue().endswith("\r\x1b[2K[3/4] ppo head fitted\n")


def test_a_row_a_step_in_the_run_folder(bench: Make) -> None:
    b = bench()
    b.step(1, 3, after=1.5, loss=0.75)
    assert b.rows() == [{"stage": "ppo", "step": 1, "seconds": 1.5, "loss": 0.75}]  # flushed at once
    b.step(2, 3, after=2.0, loss=float("nan"))
    assert b.rows()[1] == {"stage": "ppo", "step": 2, "seconds": 3.5, "loss": None}


def test_the_log_holds_start_progress_notes_and_warnings(bench: Make) -> None:
    b = bench()
    b.reporter.note("two\nlines")
    b.reporter.warn("KL is \x1b[31mhigh, hf_abcdefgh1234")
    b.step(1, 1, after=2.0)
    b.reporter.close()
    log = (b.folder / "log.txt").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in log] == [
        "[3/4] ppo starts",
        "[3/4] ppo two lines",
        "[3/4] ppo ! KL is \u241b[31mhigh, [redacted]",
        "[3/4] ppo 1/1 100% | took 2 s",
    ]
    assert all(line[:20].endswith("Z") for line in log)
    assert b.reporter.warnings == ["KL is \u241b[31mhigh, [redacted]"]


def test_a_second_round_of_steps_starts_its_own_rate(bench: Make) -> None:
    b = bench()
    b.step(1, 2, after=1.0)
    b.step(2, 2, after=1.0)
    b.step(1, 5, after=31.0)
    assert b.lines[-1] == "[3/4] ppo 1/5 20%"


def test_half_a_line_of_a_killed_run_is_not_glued_to_the_next(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"ste')
    b = Bench(tmp_path, terminal=False)
    b.step(2, 3, after=1.0)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines[:2] == ['{"step": 1}', '{"ste']
    assert json.loads(lines[2])["step"] == 2


def test_a_folder_deleted_under_the_run_stops_nothing(tmp_path: Path) -> None:
    b = Bench(tmp_path / "run", terminal=False)
    b.step(1, 3, after=1.0)
    shutil.rmtree(tmp_path / "run")
    b.step(2, 3, after=1.0)
    b.reporter.warn("still here")
    b.reporter.close()
    assert b.reporter.warnings == ["still here"]


def test_a_folder_that_cannot_be_written_is_one_warning_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    b = Bench(tmp_path / "file", terminal=False)
    for step in (1, 2):
        b.step(step, 2, after=1.0)
    assert len(b.reporter.warnings) == 2
    assert "metrics.jsonl: cannot be written (" in b.reporter.warnings[1]


def test_a_full_disk_costs_the_log_and_not_the_run(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    b = Bench(tmp_path, terminal=False)
    for step in (1, 2, 3):
        b.step(step, 3, after=1.0)
    assert [line for line in b.reporter.warnings if "metrics.jsonl" in line] == b.reporter.warnings
    assert len(b.reporter.warnings) == 1


def test_closing_twice_is_fine_and_the_context_manager_closes(tmp_path: Path) -> None:
    b = Bench(tmp_path, terminal=True)
    with b.reporter:
        b.step(1, 9, after=1.0)
    assert b.screen.getvalue().endswith("\r\x1b[2K")
    b.reporter.close()
    b.step(2, 9, after=1.0)  # late words are lost, not fatal
    assert len(b.rows()) == 1
