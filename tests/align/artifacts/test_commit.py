"""A folder is committed whole or not at all, whatever happens in between."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from align.artifacts import commit as commits
from align.artifacts.commit import commit, remove, remove_abandoned
from align.artifacts.manifest import verify
from align.errors import IntegrityError, ResourceError

RunKilled = Callable[[Callable[[], None], int], bool]
KEY = "k" * 64
FILES = {"weights.bin": b"\x00\x01" * 50, "deep/er/config.json": b'{"a": 1}', "empty": b""}


def make(final: Path, files: dict[str, bytes] = FILES, key: str = KEY, **extra: Any) -> None:
    with commit(final, kind="policy", key=key, **extra) as out:
        for name, content in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if ".tmp-" in p.name)


def test_a_committed_folder_holds_its_files_and_their_story(tmp_path: Path) -> None:
    info: dict[str, Any] = {}
    with commit(
        tmp_path / "runs" / "a",
        kind="reward",
        key=KEY,
        stage="rm",
        inputs={"sft": "s1"},
        ingredients={"lr": 0.1},
        info=info,
    ) as out:
        (out / "x").write_text("hello")
        info["steps"] = 7
    found = verify(tmp_path / "runs" / "a")
    # sha256("hello"), from sha256sum
    assert found.files["x"].sha256 == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert found.files["x"].size == 5
    assert (found.kind, found.key, found.stage) == ("reward", KEY, "rm")
    assert (found.inputs, found.ingredients, found.info) == ({"sft": "s1"}, {"lr": 0.1}, {"steps": 7})
    assert set(found.versions) == {"align", "python", "torch", "transformers"}
    assert leftovers(tmp_path / "runs") == []


def test_nothing_absolute_in_the_manifest(tmp_path: Path) -> None:
    make(tmp_path / "a")
    assert str(tmp_path) not in (tmp_path / "a" / "manifest.json").read_text()
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere")
    assert verify(tmp_path / "elsewhere") == verify(tmp_path / "a")


def test_permissions_are_those_of_any_new_folder(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "b").mkdir()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_killed_at_every_call_of_a_first_commit(tmp_path: Path, run_killed: RunKilled) -> None:
    make(tmp_path / "reference")
    wanted = contents(tmp_path / "reference")
    killed = 0
    while run_killed(partial(make, tmp_path / str(killed) / "a"), killed + 1):
        parent = tmp_path / str(killed)
        if (parent / "a").exists():
            assert contents(parent / "a") == wanted
        make(parent / "a")
        assert contents(parent / "a") == wanted
        verify(parent / "a")
        assert leftovers(parent) == []
        killed += 1
    assert killed > 20


def test_killed_at_every_call_beside_an_older_one(tmp_path: Path, run_killed: RunKilled) -> None:
    make(tmp_path / "old", {"x": b"1"})
    before = contents(tmp_path / "old")
    killed = 0
    while run_killed(partial(make, tmp_path / f"new-{killed}"), killed + 1):
        assert contents(tmp_path / "old") == before
        verify(tmp_path / "old")
        killed += 1
    assert killed > 20
    make(tmp_path / "last")
    assert leftovers(tmp_path) == []


def test_killed_at_every_call_of_a_deletion_leaves_no_half(tmp_path: Path, run_killed: RunKilled) -> None:
    killed = 0
    while True:
        make(tmp_path / str(killed) / "a")
        if not run_killed(partial(remove, tmp_path / str(killed) / "a"), killed + 1):
            break
        if (tmp_path / str(killed) / "a").exists():
            verify(tmp_path / str(killed) / "a")
        killed += 1
    assert killed >= 4


def test_all_is_durable_before_the_name_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the rename: what was not synced would be gone. So at the rename all of it must be."""
    synced: dict[int, tuple[int, int]] = {}
    renamed: list[Path] = []
    fsync, rename = os.fsync, os.rename

    def record(handle: int) -> None:
        stat = os.fstat(handle)
        synced[stat.st_ino] = (stat.st_size, stat.st_mtime_ns)
        fsync(handle)

    def check(source: Path, target: Path) -> None:
        for path in [source, *source.rglob("*")]:
            stat = path.stat()
            assert synced.get(stat.st_ino) == (stat.st_size, stat.st_mtime_ns), f"{path} is not durable"
        synced.clear()
        renamed.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "rename", check)
    make(tmp_path / "a")
    assert renamed == [tmp_path / "a"]
    assert list(synced) == [tmp_path.stat().st_ino], "the parent is synced after the rename, and nothing else"


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda h: (order.append(Path(os.readlink(f"/proc/self/fd/{h}")).name), fsync(h))[1]
    )
    make(tmp_path / "a", {"x": b"1", "y": b"2"})
    assert order[:3] == ["x", "y", "manifest.json"]
    assert order[-1] == tmp_path.name


def test_the_same_thing_again_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path / "a", {"x": b"1"})
    inode = (tmp_path / "a").stat().st_ino
    make(tmp_path / "a", {"x": b"2"})
    assert contents(tmp_path / "a")["x"] == b"1"
    assert (tmp_path / "a").stat().st_ino == inode
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("harm", ["flip", "no manifest", "other key"])
def test_a_broken_or_foreign_one_is_set_aside(tmp_path: Path, harm: str) -> None:
    make(tmp_path / "a", {"x": b"1"}, key="other" if harm == "other key" else KEY)
    if harm == "flip":
        (tmp_path / "a" / "x").write_bytes(b"3")
    elif harm == "no manifest":
        (tmp_path / "a" / "manifest.json").unlink()
    make(tmp_path / "a", {"x": b"2"})
    assert contents(tmp_path / "a")["x"] == b"2"
    verify(tmp_path / "a")
    assert contents(tmp_path / "a.broken-1")["x"] == (b"3" if harm == "flip" else b"1")


def test_an_error_inside_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), commit(tmp_path / "a", kind="policy", key=KEY) as out:  # noqa: PT012
        (out / "x").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE, errno.EXDEV]
)
def test_a_failing_disk_is_one_line_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    make(tmp_path / "old", {"x": b"1"})
    make(tmp_path / "a", {"x": b"1"}, key="older")
    before = contents(tmp_path / "old"), contents(tmp_path / "a")

    def fail(path: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number), path if isinstance(path, str) else None)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(ResourceError) as caught:
            make(tmp_path / "b")
    assert caught.value.exit_code == 4
    assert errno.errorcode[number] in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "b").exists()
    assert leftovers(tmp_path) == []
    assert (contents(tmp_path / "old"), contents(tmp_path / "a")) == before
    make(tmp_path / "b")
    verify(tmp_path / "b")


def test_an_fsync_error_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(handle: int) -> None:
        calls.append(handle)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ResourceError, match="EIO"):
        make(tmp_path / "a")
    assert len(calls) == 1


def test_an_error_that_safetensors_reports_as_text(tmp_path: Path) -> None:
    with (
        pytest.raises(ResourceError, match=r"No space left on device \(ENOSPC, errno 28\)"),
        commit(tmp_path / "a", kind="policy", key=KEY),
    ):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_an_error_that_is_not_of_the_disk_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), commit(tmp_path / "a", kind="policy", key=KEY) as out:
        (out / "nothing").read_text()


def test_too_little_space_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 3_000_000))
    with pytest.raises(ResourceError, match=r"4\.0 MB are needed and 3\.0 MB are free"):
        make(tmp_path / "a", needed=4_000_000)
    assert list(tmp_path.iterdir()) == []
    make(tmp_path / "a", needed=3_000_000)


def test_a_name_too_long_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="ENAMETOOLONG"):
        make(tmp_path / ("x" * 300))


def test_only_what_dead_processes_left_is_cleaned(tmp_path: Path) -> None:
    (tmp_path / ".a.tmp-dead").mkdir()
    (tmp_path / ".a.tmp-dead" / "x").write_text("half")
    with commit(tmp_path / "a", kind="policy", key=KEY) as out:
        remove_abandoned(tmp_path)
        assert out.exists()
        assert leftovers(tmp_path) == [out.name]
        (out / "x").write_text("whole")
    assert contents(tmp_path / "a")["x"] == b"whole"


def test_a_temporary_folder_that_is_taken_for_abandoned_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its locking another process may clean it away."""
    flock = fcntl.flock
    cleaned: list[Path] = []

    def clean_first(handle: int, how: int) -> None:
        if not cleaned:
            cleaned.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
            shutil.rmtree(cleaned[0])
        flock(handle, how)

    monkeypatch.setattr(commits.fcntl, "flock", clean_first)
    with commit(tmp_path / "a", kind="policy", key=KEY) as out:
        (out / "x").write_text("whole")
    assert out != cleaned[0]
    verify(tmp_path / "a")


def test_a_link_is_not_committed(tmp_path: Path) -> None:
    with (
        pytest.raises(IntegrityError, match="is a link"),
        commit(tmp_path / "a", kind="policy", key=KEY) as out,
    ):
        (out / "x").symlink_to("/etc/hostname")
    assert not (tmp_path / "a").exists()


def test_manifest_is_plain_json(tmp_path: Path) -> None:
    make(tmp_path / "a")
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["schema"] == 1
