"""The plan's table, on a terminal, in a pipe, and with hostile words."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from align.report.console import make_reporter, print_plan

ROOT = Path(__file__).parents[3]


@dataclass
class Row:
    """A row of a plan."""

    name: str
    kind: str
    inputs: list[str]
    steps: int | None
    status: str
    seconds: float | None = None


@dataclass
class Plan:
    """A plan."""

    rows: list[Row]
    footer: str = "Nothing was run."
    extra: dict[str, str] = field(default_factory=dict)


PLAN = Plan(
    [
        Row("sft", "sft", ["base"], 120, "reused"),
        Row("reward", "reward", ["sft"], 300, "changed: stages.reward.lr 9e-6 -> 1e-5"),
        Row("ppo", "ppo", ["sft", "reward"], 200, "waits for reward"),
        Row("eval", "evaluate", ["sft", "ppo", "reward"], None, "resumes at step 1"),
    ]
)


def test_a_plan_in_a_pipe_is_plain_and_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(PLAN)
    out, err = capsys.readouterr()
    assert out == (
        "stage            input             steps  status\n"
        "sft              base                120  reused\n"
        "reward           sft                 300  changed: stages.reward.lr 9e-6 -> 1e-5\n"
        "ppo              sft, reward         200  waits for reward\n"
        "eval (evaluate)  sft, ppo, reward         resumes at step 1\n"
        "Nothing was run.\n"
    )
    assert err == ""


def test_forecasts_get_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(Plan([Row("sft", "sft", [], 3, "new", seconds=372), Row("dpo", "dpo", ["sft"], 3, "new")], ""))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["stage", "input", "steps", "time", "status"]
    assert lines[1].split() == ["sft", "base", "3", "~6", "min", "12", "s", "new"]
    assert lines[2].split() == ["dpo", "sft", "3", "new"]


@pytest.mark.parametrize("width", [30, 60, 100])
def test_a_narrow_terminal_folds_and_loses_nothing(width: int) -> None:
    screen = io.StringIO()
    print_plan(PLAN, Console(file=screen, force_terminal=True, width=width, color_system=None))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    letters = "".join("".join(lines).split())
    for word in ("9e-6", "reused", "300"):
        assert word in letters


def test_statuses_are_text_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(Plan([Row("a", "a", [], 1, "changed: x [bold]a[/bold] -> :smile: \x1b[31m\nhf_abcdefgh1234")]))
    out = capsys.readouterr().out
    assert "changed: x [bold]a[/bold] -> :smile: \u241b[31m [redacted]\n" in out


def test_make_reporter_writes_into_the_run_folder(tmp_path: Path) -> None:
    with make_reporter("sft", 1, 4, tmp_path) as reporter:
        reporter.step(1, 2, {"loss": 0.5})
    assert (tmp_path / "metrics.jsonl").read_text().startswith('{"stage": "sft", "step": 1,')


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, align.report.console, align.report.summary; "
        "print([m for m in ('torch', 'matplotlib', 'jinja2', 'numpy', 'transformers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
