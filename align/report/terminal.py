"""Terminal streams that cannot hurt a run: a closed pipe or a lost terminal is no error."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Literal

from rich.console import Console

PIPE_WIDTH = 10_000  # no terminal, no width to keep to: lines are never folded


class SafeStream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr` whose failed writes are forgotten.

    After the first failure the file descriptor points to the null device, so that Python's own flush at exit
    does not complain about the broken pipe either.

    Args:
        name: Which stream; it is looked up at each write, since callers may replace it.
    """

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self.name = name
        self.lost = False

    def isatty(self) -> bool:
        """Whether a person's terminal that can move its cursor is on the other side."""
        stream = getattr(sys, self.name)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"
        return False

    def write(self, text: str) -> int:
        """Write `text`; characters that the stream's encoding lacks become `?`."""
        stream = getattr(sys, self.name)
        if stream is None or self.lost:
            return len(text)
        try:
            self._write(stream, text)
        except (OSError, ValueError):
            self._lose(stream)
        return len(text)

    def flush(self) -> None:
        """Flush what was written."""
        stream = getattr(sys, self.name)
        if stream is None or self.lost:
            return
        try:
            stream.flush()
        except (OSError, ValueError):
            self._lose(stream)

    @staticmethod
    def _write(stream: io.TextIOBase, text: str) -> None:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "replace").decode(encoding))

    def _lose(self, stream: io.TextIOBase) -> None:
        self.lost = True
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def make_console(name: Literal["stdout", "stderr"]) -> Console:
    """A console on a safe stream: colours and folding on a terminal, plain endless lines elsewhere.

    `NO_COLOR` switches colours off.
    """
    stream = SafeStream(name)
    live = stream.isatty()
    return Console(
        file=stream,  # type: ignore[arg-type]  # rich asks for IO[str]; it uses write, flush and isatty
        force_terminal=live,
        force_jupyter=False,
        color_system="auto" if live else None,
        width=None if live else PIPE_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )
