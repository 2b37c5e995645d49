"""A work folder, and killing code at each of its calls into the file system, one child process per call."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from saved_states import Setting

KILLED = 137
CALLS = [
    "open",
    "fsync",
    "rename",
    "replace",
    "mkdir",
    "rmdir",
    "unlink",
    "truncate",
    "chmod",
    "link",
    "close",
]


class _Dying:
    """Counts calls; the process ends, without any clean-up, in place of the `at`-th."""

    def __init__(self, at: int) -> None:
        self.left = at

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            os._exit(KILLED)

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.count()
            return function(*args, **kwargs)

        return wrapped


def _half_written(dying: _Dying, text_io: Any) -> Callable[..., Any]:
    """Like `open`, but what is written may be cut in the middle by the end of the process."""

    def opened(*args: Any, **kwargs: Any) -> Any:
        dying.count()
        file = text_io(*args, **kwargs)
        write = getattr(file, "write", None)
        if write is None or not file.writable():
            return file

        class Cut:
            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def __enter__(self) -> Cut:
                return self

            def __exit__(self, *error: object) -> None:
                file.close()

            def write(self, data: Any) -> int:
                dying.left -= 1
                if dying.left == 0:
                    write(data[: len(data) // 2])
                    file.flush()
                    os._exit(KILLED)
                return int(write(data))

        return Cut()

    return opened


def _arm(at: int) -> None:
    dying = _Dying(at)
    for name in CALLS:
        setattr(os, name, dying.wrap(getattr(os, name)))
    opened = _half_written(dying, io.open)
    io.open = builtins.open = opened  # type: ignore[assignment]


def _run_killed(action: Callable[[], None], at: int) -> bool:
    """Run `action` in a child that ends at its `at`-th call into the file system; True if it did."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            _arm(at)
            action()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED), f"the child failed by itself at call {at}"
    return status == KILLED


@pytest.fixture
def run_killed() -> Callable[[Callable[[], None], int], bool]:
    """The function above, for tests to use."""
    return _run_killed


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """A work folder in which nothing was saved yet."""
    return Setting(tmp_path / "policy-abababababab.work")
