"""Ctrl-C once stops at the next edge of the work with its state saved; twice ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOPPING = "stopping after this step, of PPO after this round; once more stops at once"
_STDERR = 2


class Stop:
    """True once the run was asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        """Whether it was."""
        return self.asked

    def handle(self, number: int, frame: FrameType | None) -> None:
        """First SIGINT or SIGTERM: remember. Second: end as the shell expects of one that died of it.

        Only renames and single writes change what is on disk, so ending anywhere leaves it whole. The line is
        written past Python's streams, which may be in the middle of a write.
        """
        if self.asked:
            os._exit(128 + number)
        self.asked = True
        with suppress(OSError):
            os.write(_STDERR, f"\n{STOPPING}\n".encode())


@contextmanager
def graceful() -> Iterator[Stop]:
    """Inside, SIGINT and SIGTERM ask to stop and SIGHUP, a lost terminal, is ignored."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
