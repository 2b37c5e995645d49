"""A lock on a folder, held by the kernel for the life of the process.

The lock is `flock` on a file in the folder. The kernel lets go when the process ends, however it ends, so
nothing stale is ever in the way. Beside it stands a note that says who holds it; the note locks nothing.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from align.artifacts.disk import guard
from align.errors import Interrupted, ResourceError

LOCK = "lock"
HOLDER = "lock.json"
_POLL = 0.2  # seconds


@contextmanager
def hold(
    folder: Path,
    *,
    wait: bool = False,
    note: Callable[[str], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Iterator[None]:
    """Hold a folder alone; it is made if it is missing.

    Args:
        folder: The folder to hold.
        wait: Wait for another holder; else refuse at once.
        note: Told once for whom it waits.
        stop: True once waiting should end.

    Raises:
        ResourceError: Another process holds it; the message names its number, host and start.
        Interrupted: Asked to stop while waiting.
    """
    lock = FileLock(folder / LOCK, thread_local=False)
    told = False
    while not _acquired(lock, folder):
        if not wait:
            raise ResourceError(str(folder), f"in use by {_holder(folder)}", "wait for it to end, or stop it")
        if note is not None and not told:
            note(f"waits for {_holder(folder)}, which holds {folder}")
            told = True
        if stop is not None and stop():
            what = f"stopped while waiting for {_holder(folder)}"
            raise Interrupted(str(folder), what, "the same command resumes")
        time.sleep(_POLL)
    try:
        with guard(folder):
            _sign(folder)
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink()
        lock.release()


def _acquired(lock: FileLock, folder: Path) -> bool:
    """One try; a folder that its last holder has removed is made again."""
    with guard(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            return False
    return True


def _sign(folder: Path) -> None:
    """Say who holds it; replaced whole, so that a reader never sees half of it."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
    part = folder / f"{HOLDER}.part"
    part.write_text(json.dumps(holder))
    os.replace(part, folder / HOLDER)


def _holder(folder: Path) -> str:
    try:
        found = json.loads((folder / HOLDER).read_text())
        return f"process {found['pid']} on {found['host']}, started {found['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process that is just starting or ending"
