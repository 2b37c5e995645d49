"""The one way in which a folder comes to be: whole, or not at all.

Files are written into a temporary sibling folder and made durable, the manifest is written last, and one
rename gives the folder its name. A process killed at any moment leaves either the old state or the new one.

The temporary folder is locked (`flock` on the folder itself) while its process lives, so what a dead process
left behind is told from what another one is writing, without trusting process numbers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from align.artifacts import manifest as manifests
from align.artifacts.disk import check_free, fsync_file, fsync_folder, guard
from align.artifacts.manifest import NAME, Manifest
from align.errors import IntegrityError


@contextmanager
def commit(
    final: Path,
    *,
    kind: str,
    key: str,
    stage: str = "",
    inputs: dict[str, str] | None = None,
    ingredients: dict[str, Any] | None = None,
    info: dict[str, Any] | None = None,
    needed: int = 0,
) -> Iterator[Path]:
    """Write a folder in full or not at all.

    Where `final` already holds the same committed thing it is left alone and what was written is thrown away;
    where it holds anything else, that is set aside under another name.

    Args:
        final: The folder's name once committed.
        kind: Kind of artifact.
        key: Stage key.
        stage: Name of the stage.
        inputs: Name of an input -> its key.
        ingredients: What the key was computed from.
        info: Free facts; read when the block ends, so it may be filled inside.
        needed: Bytes that are about to be written, where known.

    Yields:
        The temporary folder to write into.

    Raises:
        ResourceError: No space, no permission or another failure of the disk; nothing was replaced.
    """
    parent = final.parent
    with guard(final):
        parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(parent)
        check_free(parent, needed)
        temporary, owner = _make_temporary(final)
    try:
        with guard(final):
            yield temporary
            files = manifests.describe(temporary)
            versions = dict(manifests.versions())
            made = Manifest(kind, key, stage, inputs or {}, ingredients or {}, info or {}, versions, files)
            _write_manifest(temporary, made)
            _publish(temporary, final, made)
    finally:
        os.close(owner)
        shutil.rmtree(temporary, ignore_errors=True)


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    """The manifest last; then every folder's names."""
    path = folder / NAME
    path.write_text(manifest.to_json(), encoding="utf-8")
    fsync_file(path)
    for top, _, _ in os.walk(folder):
        fsync_folder(Path(top))


def _publish(temporary: Path, final: Path, made: Manifest) -> None:
    if os.path.lexists(final):
        if _holds(final, made):
            return
        set_aside(final)
    os.rename(temporary, final)
    fsync_folder(final.parent)


def _holds(final: Path, made: Manifest) -> bool:
    """True where `final` is a verified folder of the same kind and key."""
    try:
        found = manifests.verify(final)
    except IntegrityError:
        return False
    return (found.kind, found.key) == (made.kind, made.key)


def set_aside(folder: Path) -> Path:
    """Rename a folder that cannot be used to `<name>.broken-<n>`, so that nothing is lost.

    Returns:
        The new path.
    """
    number = 1
    while os.path.lexists(aside := folder.with_name(f"{folder.name}.broken-{number}")):
        number += 1
    os.rename(folder, aside)
    fsync_folder(folder.parent)
    return aside


def remove(folder: Path) -> None:
    """Delete a committed folder; a process killed half way leaves no half of it under its name.

    Raises:
        OSError: It could not be deleted, or not entirely; what is left is tried again by later commits.
    """
    doomed = Path(tempfile.mkdtemp(prefix=_prefix(folder), dir=folder.parent))
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def remove_abandoned(parent: Path) -> None:
    """Delete temporary folders in `parent` whose process is dead; what cannot be deleted stays."""
    for path in sorted(parent.glob(".*.tmp-*")):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)


def _prefix(folder: Path) -> str:
    return f".{folder.name}.tmp-"


def _make_temporary(final: Path) -> tuple[Path, int]:
    """A new locked sibling folder and the handle that holds its lock."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_prefix(final), dir=final.parent))
        try:
            path.chmod(0o777 & ~_umask())
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # another process took it for abandoned before it was locked
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            # Some network file systems cannot lock folders; there abandoned folders are not cleaned either.
            if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                os.close(handle)
                raise
        if path.exists():
            return path, handle
        os.close(handle)


def _umask() -> int:
    """The process's file mode mask; the system only tells it when it is set."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
