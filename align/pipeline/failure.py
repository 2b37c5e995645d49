"""From an exception to the lines a person reads, the exit code, and the traceback in the log."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Protocol

from align.artifacts.disk import resource_error
from align.errors import AlignError, Problems, ResourceError, is_out_of_memory

DEFECT = 1
INTERRUPTED = 130  # what a shell reports for Ctrl-C
_KEY_PATH = re.compile(r"(?:stages|model|adapter|hardware)(?:\.\w+)*")


class Places(Protocol):
    """Where the values of a recipe come from."""

    def nearest(self, key: str) -> str:
        """File and line of a key, or of the nearest one above it."""


def explain(error: BaseException, runs: Path, peak_gb: float | None = None) -> BaseException:
    """The error that a person can act on, where what was raised is one in disguise; else what was raised.

    Args:
        error: What was raised.
        runs: Named where a failure of the disk names no path.
        peak_gb: Peak memory so far in GB.
    """
    if isinstance(error, AlignError):
        return error
    if is_out_of_memory(error):
        peak = "" if peak_gb is None else f" after a peak of {peak_gb:.1f} GB"
        fix = "lower tokens_per_microbatch of the stage, or take a smaller model; the same command resumes"
        return ResourceError("memory", f"ran out{peak}", fix)
    return resource_error(error, runs) or error


def exit_code(error: BaseException) -> int:
    """The exit code of the command that ends with this error."""
    if isinstance(error, AlignError):
        return error.exit_code
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else DEFECT


def lines(error: BaseException, log: Path | None, places: Places | None = None) -> list[str]:
    """One line for each thing that is wrong.

    Args:
        error: From `explain`.
        log: Where the traceback was written.
        places: Turns the key path of an error into file and line.
    """
    if isinstance(error, Problems):
        return [line for one in error.errors for line in lines(one, log, places)]
    if isinstance(error, AlignError):
        return [_placed(error, places)]
    if isinstance(error, KeyboardInterrupt):
        return ["interrupted"]
    said = str(error).splitlines()
    what = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    where = f"the traceback is in {log}" if log is not None else "debug=true shows the traceback"
    return [f"a defect in Align: {what}; {where}"]


def _placed(error: AlignError, places: Places | None) -> str:
    """The error behind the place in the recipe that it comes from, where it comes from one."""
    if places is not None and _KEY_PATH.fullmatch(error.where):
        return f"{places.nearest(error.where)}: {error}"
    if places is not None and error.key:
        return f"{places.nearest(error.key)}: {error.key}: {error}"
    return str(error)


def trace(error: BaseException) -> str:
    """The whole traceback, as text."""
    return "".join(traceback.format_exception(error)).rstrip()
