"""The little that the commit protocol asks of the file system, and errors of the disk as one line."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from align.errors import ResourceError

_SPACE = "free some space; the same command goes on from here"
_WRITABLE = "make it writable, or give another folder with runs="
_FIXES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "raise the limit of file sizes (ulimit -f); the same command goes on from here",
    errno.EROFS: _WRITABLE,
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.EIO: "the disk may be failing; nothing that was finished is lost",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "the machine has no free file handles; close other programs",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.EXDEV: "keep the folder of runs on one file system",
    errno.ENOTDIR: "a file is where a folder should be; move it away",
    errno.EISDIR: "a folder is where a file should be; move it away",
    errno.ENOTEMPTY: "move away what is there",
    errno.ELOOP: "links lead in a circle; remove one",
    errno.ENOMEM: "free some memory",
    errno.EBUSY: "close what uses it",
    errno.ESTALE: "the network share went away; mount it again",
}
_RUST_ERRNO = re.compile(r"\(os error (\d+)\)")


def resource_error(error: BaseException, where: Path) -> ResourceError | None:
    """The one-line form of an error of disk or system limits; None for any other error.

    safetensors reports the system's errors as text, so the number is read out of it.

    Args:
        error: What was raised.
        where: Named where the error itself names no path.
    """
    if isinstance(error, OSError):
        number, path = error.errno, error.filename or where
    else:
        found = _RUST_ERRNO.search(str(error))
        number, path = (int(found.group(1)) if found else None), where
    if number is None or number not in _FIXES:
        return None
    what = f"{os.strerror(number)} ({errno.errorcode[number]}, errno {number})"
    return ResourceError(os.fsdecode(path), what, _FIXES[number])


@contextmanager
def guard(where: Path) -> Iterator[None]:
    """Inside, errors of disk and system limits become a `ResourceError` that names path and errno."""
    try:
        yield
    except Exception as error:
        known = resource_error(error, where)
        if known is None:
            raise
        raise known from error


def fsync_file(path: Path) -> None:
    """Make a file's content durable. Never try again after an error: the kernel may have dropped the data."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_free(folder: Path, needed: int) -> None:
    """Refuse before a write that cannot fit.

    Args:
        folder: An existing folder on the file system in question.
        needed: Bytes about to be written.

    Raises:
        ResourceError: Fewer bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        what = f"{readable(needed)} are needed and {readable(free)} are free"
        raise ResourceError(str(folder), what, _SPACE)


def readable(count: int) -> str:
    """A number of bytes as text, in MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
