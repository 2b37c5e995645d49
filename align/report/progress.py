"""Progress of one stage: a line on the screen, a row a step on disk, and the log."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from align.report.numbers import compact, duration, finite
from align.report.terminal import make_console
from align.report.text import one_line

LIVE_SECONDS = 0.2  # a live line is drawn at most five times a second
PLAIN_SECONDS = 30.0  # without a terminal, and in the log: one line
WINDOW = 20  # steps that rate and ETA are measured over


class AppendFile:
    """A text file that grows line by line; where it cannot be written, the run goes on without it."""

    def __init__(self, path: Path, on_error: Callable[[str], None]) -> None:
        self.path, self._on_error = path, on_error
        self._file: IO[str] | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torn = self._ends_torn(path)
            self._file = path.open("a", encoding="utf-8", errors="replace")
            if torn:
                self._file.write("\n")
        except OSError as error:
            self._fail(error)

    @staticmethod
    def _ends_torn(path: Path) -> bool:
        """Whether a killed run left half a line, which the next line must not be glued to."""
        if not path.exists() or path.stat().st_size == 0:
            return False
        with path.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) != b"\n"

    def line(self, text: str) -> None:
        """Append one line and flush it."""
        if self._file is None:
            return
        try:
            self._file.write(text + "\n")
            self._file.flush()
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Close the file; nothing is appended afterwards."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None

    def _fail(self, error: OSError) -> None:
        self.close()
        self._on_error(f"{self.path}: cannot be written ({error.strerror}); the run goes on without it")


class StageReporter:
    """The `Reporter` of one stage. Nothing that goes wrong here stops the stage.

    Args:
        stage: Name of the stage.
        index: Its place in the run, from 1.
        count: Stages in the run.
        run_folder: Gets `metrics.jsonl` (one row a step) and `log.txt`, both appended to.
        clock: Seconds that never run backwards.
        console: Where lines go; default: stderr.

    Attributes:
        warnings: What `warn` was told, for the end-of-run summary.
    """

    def __init__(
        self,
        stage: str,
        index: int,
        count: int,
        run_folder: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        self.stage = stage
        self.label = f"[{index}/{count}] {stage}"
        self.warnings: list[str] = []
        self._clock = clock
        self._console = console if console is not None else make_console("stderr")
        self._begin = clock()
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=WINDOW + 1)
        self._tokens = 0
        self._step = 0
        self._live = False
        self._drawn = self._logged = self._begin
        self._log = AppendFile(run_folder / "log.txt", self._unwritten)
        self._metrics = AppendFile(run_folder / "metrics.jsonl", self._unwritten)
        self._record("starts")

    def __enter__(self) -> StageReporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def step(self, step: int, total: int, headline: Mapping[str, float], tokens: int = 0) -> None:
        """A step is done.

        Args:
            step: Number of the step, from 1.
            total: Steps of the stage.
            headline: The two or three numbers of the progress line.
            tokens: Tokens that the step worked on; 0 where that means nothing.
        """
        now = self._clock()
        if step <= self._step:  # another round of steps, for example the stage's own evaluation
            self._recent.clear()
        self._step = step
        self._tokens += tokens
        self._recent.append((now, step, self._tokens))
        numbers = {name: finite(value) for name, value in headline.items()}
        row = {"stage": self.stage, "step": step, "seconds": round(now - self._begin, 3), **numbers}
        self._metrics.line(json.dumps(row))
        self._show(self._progress(step, total, headline), now, last=step >= total)

    def note(self, text: str) -> None:
        """One line for the log and the screen."""
        self._record(one_line(text))

    def warn(self, text: str) -> None:
        """One line for the log and the screen, kept for the end-of-run summary."""
        line = one_line(text)
        self.warnings.append(line)
        self._record(f"! {line}", style="yellow")

    def close(self) -> None:
        """Leave the terminal on a clean line and close the files; may be called twice."""
        self._clear()
        self._log.close()
        self._metrics.close()

    def _unwritten(self, text: str) -> None:
        line = one_line(text)
        self.warnings.append(line)
        self._print(f"! {line}", style="yellow")

    def _record(self, text: str, style: str = "") -> None:
        self._log.line(f"{_timestamp()} {self.label} {text}")
        self._print(text, style)

    def _print(self, text: str, style: str = "") -> None:
        self._clear()
        self._console.print(self._labelled(text, style))

    def _labelled(self, text: str, style: str = "") -> Text:
        return Text.assemble((f"{self.label} ", "dim"), (text, style))

    def _clear(self) -> None:
        if self._live:
            self._console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
        self._live = False

    def _progress(self, step: int, total: int, headline: Mapping[str, float]) -> str:
        parts = [f"{step}/{total} {100 * step // max(total, 1)}%"]
        parts += [f"{one_line(name)} {compact(value)}" for name, value in headline.items()]
        parts += self._pace(total - step)
        return " | ".join(parts)

    def _pace(self, left: int) -> list[str]:
        """Rate and time left, measured over the last steps of this process."""
        (first_time, first_step, first_tokens), (time_now, step, tokens) = self._recent[0], self._recent[-1]
        seconds, steps = time_now - first_time, step - first_step
        if seconds <= 0 or steps <= 0:
            return []
        if tokens > first_tokens:
            rate = f"{compact((tokens - first_tokens) / seconds)} tok/s"
        elif steps >= seconds:
            rate = f"{compact(steps / seconds)} steps/s"
        else:
            rate = f"{compact(seconds / steps)} s/step"
        return [rate, f"ETA {duration(left * seconds / steps)}"] if left > 0 else [rate]

    def _show(self, text: str, now: float, last: bool) -> None:
        if last:
            text = f"{text} | took {duration(now - self._begin)}"
        due = last or now - self._logged >= PLAIN_SECONDS
        if due:
            self._logged = now
            self._log.line(f"{_timestamp()} {self.label} {text}")
        if last or (due and not self._console.is_terminal):
            self._print(text)
        elif self._console.is_terminal and now - self._drawn >= LIVE_SECONDS:
            self._drawn = now
            self._draw(text)

    def _draw(self, text: str) -> None:
        """Replace the live line, cut to the width that the terminal has now."""
        self._clear()
        line = self._labelled(text)
        line.truncate(max(self._console.width - 1, 1), overflow="ellipsis")
        self._console.print(line, end="", soft_wrap=True)
        self._live = True


def _timestamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
