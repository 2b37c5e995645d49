"""`manifest.json`: what a committed folder holds, what it was made from, and whether it is still so.

The manifest is written last, so a folder without one was never finished. It carries a hash of itself, so a
flipped bit anywhere in the folder is seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import align
from align.artifacts.disk import guard
from align.errors import IntegrityError

SCHEMA = 1
NAME = "manifest.json"
_FIX = "remove the folder to have it made anew"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: bytes and SHA-256 in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a committed folder is.

    Attributes:
        kind: `policy`, `reward`, `evaluation`, `checkpoint`.
        key: The stage key it was made under.
        stage: Name of the stage in the recipe that made it.
        inputs: Name of an input -> its key.
        ingredients: What the key was computed from, flat, so that a plan can say what changed.
        info: Free facts, e.g. the number of steps.
        versions: Of Align, Python and the libraries that made it.
        files: Relative path -> size and hash of every file but the manifest.
        schema: Version of this format.
    """

    kind: str
    key: str
    stage: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    ingredients: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, FileEntry] = field(default_factory=dict)
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The file's text, with the hash of the rest under `sha256`."""
        fields = asdict(self)
        fields["sha256"] = _hash_of(fields)
        return json.dumps(fields, indent=1, sort_keys=True, allow_nan=False) + "\n"


@cache
def versions() -> dict[str, str]:
    """Versions of what results depend on; nothing heavy is imported to find them."""
    found = {"align": align.__version__, "python": platform.python_version()}
    for name in ("torch", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def describe(folder: Path) -> dict[str, FileEntry]:
    """Size and hash of every file in a folder, `manifest.json` left out; makes each durable on the way."""
    entries = {}
    for name, path in _listing(folder).items():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
            entries[name] = FileEntry(os.fstat(file.fileno()).st_size, digest)
    return entries


def load(folder: Path) -> Manifest:
    """The manifest alone, without a look at the files.

    Raises:
        IntegrityError: None is there (the folder was never committed), or it is broken.
    """
    path = folder / NAME
    with guard(path):
        if not path.is_file():
            raise IntegrityError(str(path), "missing: the folder was never committed", _FIX)
        text = path.read_bytes()
    try:
        fields = json.loads(text, parse_constant=_refuse_constant)
        claimed = fields.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise IntegrityError(str(path), "broken: not a manifest", _FIX) from None
    if fields.get("schema") != SCHEMA:
        what = f"has schema {fields.get('schema')!r}; this version reads {SCHEMA}"
        raise IntegrityError(str(path), what, "use the version of Align that wrote it, or remove the folder")
    actual = _hash_of(fields)
    if claimed != actual:
        raise IntegrityError(str(path), f"broken: its SHA-256 is {actual}, it says {claimed}", _FIX)
    try:
        fields["files"] = {name: FileEntry(**entry) for name, entry in fields["files"].items()}
        return Manifest(**fields)
    except (AttributeError, KeyError, TypeError):
        raise IntegrityError(str(path), "broken: not a manifest of this version", _FIX) from None


def _refuse_constant(name: str) -> None:
    """NaN and its like are no JSON, and no manifest is written with them."""
    raise ValueError(name)


def verify(folder: Path, deep: bool = True) -> Manifest:
    """See that a folder holds exactly what was committed.

    Args:
        folder: A committed folder.
        deep: Hash every file; else compare names and sizes only.

    Raises:
        IntegrityError: The manifest is missing or broken, or a file is missing, extra, or not what it was;
            the message names the file and both hashes.
    """
    manifest = load(folder)
    with guard(folder):
        present = _listing(folder)
        for name, entry in sorted(manifest.files.items()):
            if name not in present:
                what = f"missing; {entry.size} bytes with SHA-256 {entry.sha256} were committed"
                raise IntegrityError(str(folder / name), what, _FIX)
            _check(present.pop(name), entry, deep)
    for path in present.values():
        what = f"extra: not in the manifest; its SHA-256 is {_file_hash(path)}"
        raise IntegrityError(str(path), what, _FIX)
    return manifest


def _check(path: Path, entry: FileEntry, deep: bool) -> None:
    size = path.stat().st_size
    if size == entry.size and not deep:
        return
    actual = _file_hash(path)
    if size != entry.size or actual != entry.sha256:
        was = f"{entry.size} bytes with SHA-256 {entry.sha256} were committed"
        raise IntegrityError(str(path), f"changed: {size} bytes with SHA-256 {actual}; {was}", _FIX)


def _listing(folder: Path) -> dict[str, Path]:
    """Relative path -> file, in sorted order, the top manifest left out; links are refused."""
    found = {}

    def refuse(error: OSError) -> None:
        raise error

    for top, folders, files in os.walk(folder, onerror=refuse):
        for name in [*folders, *files]:
            path = Path(top, name)
            if path.is_symlink():
                raise IntegrityError(str(path), "is a link; a committed folder holds its own files", _FIX)
        for name in files:
            path = Path(top, name)
            found[path.relative_to(folder).as_posix()] = path
    found.pop(NAME, None)
    return dict(sorted(found.items()))


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_of(fields: dict[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
