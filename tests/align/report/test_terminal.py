"""Streams that break do not break the run."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from align.report.terminal import SafeStream, make_console

ROOT = Path(__file__).parents[3]
TALKATIVE = """
import sys
from align.report.terminal import make_console
for name in ("stdout", "stderr"):
    console = make_console(name)
    for i in range(3000):
        console.print(f"line {i} " + 60 * "x")
open(sys.argv[1], "w").write("reached the end")
"""


def run_shell(command: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "talk.py"
    script.write_text(TALKATIVE)
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PY": sys.executable,
        "SCRIPT": str(script),
        "END": str(tmp_path / "end"),
    }
    return subprocess.run(["bash", "-c", command], env=variables, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "command",
    [
        '{ "$PY" "$SCRIPT" "$END"; echo "code $?" >&3; } 3>&2 2>/dev/null | head -1',
        '{ "$PY" "$SCRIPT" "$END" 2>&1; echo "code $?" >&3; } 3>&2 | head -1',
        '"$PY" "$SCRIPT" "$END" >&- 2>&-; echo "code $?" >&2',
        '"$PY" "$SCRIPT" "$END" >/dev/full 2>/dev/full; echo "code $?" >&2',
    ],
)
def test_a_broken_stream_is_no_error(command: str, tmp_path: Path) -> None:
    result = run_shell(command, tmp_path)
    assert result.stderr.strip() == "code 0"
    assert (tmp_path / "end").read_text() == "reached the end"


def test_characters_that_the_stream_lacks_become_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    stream = SafeStream("stdout")
    stream.write("naïve ✓\n")
    stream.flush()
    assert raw.getvalue() == b"na?ve ?\n"


class Terminal(io.StringIO):
    """A terminal as far as a program can tell."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colours(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], coloured: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm-256color", **variables}.items():
        monkeypatch.setenv(name, value)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    make_console("stderr").print("warned", style="yellow")
    assert ("\x1b[33m" in screen.getvalue()) is coloured


def test_lines_in_a_pipe_are_plain_and_never_folded(capsys: pytest.CaptureFixture[str]) -> None:
    make_console("stdout").print("word " * 100, style="bold red")
    assert capsys.readouterr().out == "word " * 100 + "\n"
