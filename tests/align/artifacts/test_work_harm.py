"""Saved states that are broken, killed in the middle of a save, or that a disk refuses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from saved_states import Setting, flip, tensors

from align.artifacts import work as works
from align.artifacts.manifest import verify
from align.errors import IntegrityError, ResourceError

HARMS: dict[str, Callable[[Path], object]] = {
    "flipped tensors": lambda c: flip(c / "tensors.safetensors"),
    "flipped state": lambda c: flip(c / "state.json"),
    "truncated": lambda c: os.truncate(c / "tensors.safetensors", 20),
    "tensors missing": lambda c: (c / "tensors.safetensors").unlink(),
    "state missing": lambda c: (c / "state.json").unlink(),
    "manifest missing": lambda c: (c / "manifest.json").unlink(),
    "extra": lambda c: (c / "more").write_text(""),
    "emptied": lambda c: [p.unlink() for p in c.iterdir()],
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_broken_newest_falls_back_to_the_one_before_and_says_so(setting: Setting, harm: str) -> None:
    setting.filled(10, 20)
    HARMS[harm](setting.checkpoint(20))
    found = setting.work().latest()
    assert found is not None
    assert found.step == 10
    assert torch.equal(found.tensors["w"], torch.full((3, 2), 10.0))
    (line,) = setting.said
    assert line.startswith("a broken saved state is skipped, step 10 is used: ")
    assert "checkpoint-20/" in line
    assert setting.work().newest() == verify(setting.checkpoint(10))


@pytest.mark.parametrize("harm", HARMS)
def test_all_broken_is_no_fresh_start(setting: Setting, harm: str) -> None:
    setting.filled(10, 20)
    HARMS[harm](setting.checkpoint(10))
    HARMS[harm](setting.checkpoint(20))
    for _ in range(2):
        with pytest.raises(IntegrityError, match="none of its 2 saved states is whole") as caught:
            setting.work().latest()
    assert "checkpoint-20" in str(caught.value)
    assert caught.value.exit_code == 3


def test_the_next_save_replaces_a_broken_one_and_keeps_it_aside(setting: Setting) -> None:
    setting.filled(10, 20)
    flip(setting.checkpoint(20) / "state.json")
    setting.filled(20)
    found = setting.work().latest()
    assert found is not None
    assert found.step == 20
    assert "checkpoint-20.broken-1" in setting.states()


def test_a_broken_state_does_not_count_as_kept(setting: Setting) -> None:
    setting.filled(1, 2)
    flip(setting.checkpoint(2) / "tensors.safetensors")
    setting.filled(3)
    assert setting.states() == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    setting.filled(4)
    assert setting.states() == ["checkpoint-3", "checkpoint-4"]


@pytest.mark.parametrize("call", ["rename", "rmtree"])
def test_a_failing_deletion_is_one_warning_and_is_tried_again(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    work = setting.filled(1, 2)
    rename, rmtree = os.rename, shutil.rmtree

    def fail_rename(source: Any, target: Any) -> None:
        if Path(source).name in ("checkpoint-1", "checkpoint-2"):
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    def fail_rmtree(path: Any, ignore_errors: bool = False) -> None:
        if ".checkpoint-1.tmp-" in str(path) or ".checkpoint-2.tmp-" in str(path):
            if not ignore_errors:
                raise OSError(16, "Device or resource busy")
            return
        rmtree(path, ignore_errors)

    with monkeypatch.context() as patch:
        if call == "rename":
            patch.setattr(os, "rename", fail_rename)
        else:
            patch.setattr(shutil, "rmtree", fail_rmtree)
        work.save(3, {}, {})
        work.save(4, {}, {})
    assert len(setting.said) == 1
    assert "could not be deleted" in setting.said[0]
    work.save(5, {}, {})
    assert setting.states() == ["checkpoint-4", "checkpoint-5"]
    assert not list(setting.folder.glob(".*"))


def test_no_space_keeps_the_old_state(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    work = setting.filled(1)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match="ENOSPC"):
            work.save(2, tensors(2), {})
    assert setting.states() == ["checkpoint-1"]
    assert not list(setting.folder.glob(".*"))
    work.save(2, tensors(2), {})
    found = setting.work().latest()
    assert found is not None
    assert found.step == 2


def test_killed_at_every_call_of_a_save(
    setting: Setting, run_killed: Callable[[Callable[[], None], int], bool]
) -> None:
    """The old state verifies, and the same save again gives the same bytes as one that was never killed."""
    setting.filled(1, 2, 3)
    wanted = (setting.checkpoint(3) / "tensors.safetensors").read_bytes()
    shutil.rmtree(setting.folder)
    setting.filled(1, 2)
    first = setting.folder.rename(setting.folder.with_name("before"))
    killed = 0
    while True:
        setting.folder = first.with_name(f"{killed}.work")
        shutil.copytree(first, setting.folder)
        if not run_killed(lambda: setting.work().save(3, tensors(3), {"step": 3, "metrics": 0}), killed + 1):
            break
        found = setting.work().latest()
        assert found is not None
        assert found.step in (2, 3)
        assert torch.equal(found.tensors["w"], torch.full((3, 2), float(found.step)))
        whole = [step for step in (1, 2, 3) if _whole(setting.checkpoint(step))]
        assert len(whole) >= 2
        setting.filled(3)
        assert (setting.checkpoint(3) / "tensors.safetensors").read_bytes() == wanted
        assert setting.states() == ["checkpoint-2", "checkpoint-3"]
        assert not list(setting.folder.glob(".*")), "nothing temporary is left"
        killed += 1
    assert killed > 20
    assert setting.said == []


def _whole(path: Path) -> bool:
    try:
        verify(path)
    except IntegrityError:
        return False
    return True


def test_remove(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    work = setting.filled(1)
    work.metrics.append({"step": 1})

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(works, "remove", refuse)
        work.remove()
    assert "could not be deleted: Permission denied" in setting.said[0]
    work.remove()
    assert not setting.folder.exists()
    work.remove()


def test_a_folder_that_another_process_removes_meanwhile_is_not_broken(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = setting.filled(1)
    real = works.manifests.verify

    def remove_first(path: Path) -> Any:
        shutil.rmtree(setting.folder, ignore_errors=True)
        return real(path)

    monkeypatch.setattr(works.manifests, "verify", remove_first)
    assert work.latest() is None
