"""Saved states: exact, retained by what verifies, and never silently replaced by a fresh start."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from align.artifacts import manifest as manifests
from align.artifacts import work as works
from align.artifacts.manifest import verify
from align.artifacts.work import Work
from align.errors import IntegrityError, NumericsError, ResourceError

KEY = "ab" * 32


class Setting:
    """A work folder and what it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []

    def work(self, key: str = KEY, keep: int = 2) -> Work:
        return Work(self.folder, key, keep=keep, stage="ppo", say=self.said.append)

    def filled(self, *steps: int) -> Work:
        work = self.work()
        for step in steps:
            work.save(step, tensors(step), {"step": step, "metrics": 0})
        return work

    def checkpoint(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step}"

    def states(self) -> list[str]:
        return sorted(p.name for p in self.folder.iterdir() if p.name.startswith("checkpoint"))


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path / "policy-abababababab.work")


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3, 2), float(step)), "rng": torch.arange(8, dtype=torch.uint8)}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_state_comes_back_bit_for_bit(setting: Setting) -> None:
    shared = torch.arange(6.0)
    saved = {
        "zero_dim": torch.tensor(0.1),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "slice": torch.arange(10)[2:5],
        "bf16": torch.tensor([1.5, float("inf")], dtype=torch.bfloat16),
        "empty": torch.empty(0, 4),
        "bool": torch.tensor([True, False]),
        "one": shared,
        "same": shared,
        "part": shared[:3],
        "learns": torch.nn.Parameter(torch.tensor([-0.0, 1e-45])),
    }
    state = {
        "coef": 0.1 + 0.2,
        "tiny": 5e-324,
        "pi": math.pi,
        "big": 2**127 + 1,
        "text": "ü",
        "list": [1, None, True],
    }
    setting.work().save(7, saved, state)
    found = setting.work().latest()
    assert found is not None
    assert found.step == 7
    assert found.state == state
    assert sorted(found.tensors) == sorted(saved)
    for name, tensor in saved.items():
        assert found.tensors[name].dtype == tensor.dtype, name
        assert found.tensors[name].shape == tensor.shape, name
        assert torch.equal(found.tensors[name], tensor.detach()), name
    assert math.copysign(1, float(found.tensors["learns"][0])) == -1
    assert setting.said == []


def test_only_safetensors_and_json_are_written(setting: Setting) -> None:
    setting.filled(1)
    names = sorted(p.name for p in setting.folder.rglob("*") if p.is_file())
    assert names == ["manifest.json", "state.json", "tensors.safetensors"]


def test_nothing_was_saved(setting: Setting) -> None:
    assert setting.work().latest() is None
    assert not setting.work().checkpoint_exists
    assert not setting.folder.exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_not_saved(setting: Setting, value: float) -> None:
    with pytest.raises(NumericsError, match="ppo, state at step 3"):
        setting.work().save(3, {}, {"kl": [value]})
    assert not setting.work().checkpoint_exists


@pytest.mark.parametrize("state", [{"a": (1, 2)}, {"a": {1: 2}}, {"a": {1, 2}}, {"a": torch.tensor(1)}])
def test_a_state_that_json_would_change_is_refused(setting: Setting, state: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        setting.work().save(3, {}, state)
    assert not setting.work().checkpoint_exists


def test_the_newest_is_the_highest_number(setting: Setting) -> None:
    setting.filled(9, 10, 100)
    now = setting.checkpoint(100).stat().st_mtime
    os.utime(setting.checkpoint(10), (now + 1000, now + 1000))
    found = setting.work().latest()
    assert found is not None
    assert found.step == 100


def test_two_are_kept(setting: Setting) -> None:
    setting.filled(1, 2, 3, 10)
    assert setting.states() == ["checkpoint-10", "checkpoint-3"]


def test_fewer_than_two_cannot_be_asked_for(setting: Setting) -> None:
    work = setting.work(keep=1)
    for step in (1, 2, 3):
        work.save(step, {}, {})
    assert setting.states() == ["checkpoint-2", "checkpoint-3"]


def test_three_are_kept_where_asked_for(setting: Setting) -> None:
    work = setting.work(keep=3)
    for step in (1, 2, 3, 4):
        work.save(step, {}, {})
    assert setting.states() == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]


def test_a_broken_state_does_not_count_as_kept(setting: Setting) -> None:
    setting.filled(1, 2)
    flip(setting.checkpoint(2) / "tensors.safetensors")
    setting.filled(3)
    assert setting.states() == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    setting.filled(4)
    assert setting.states() == ["checkpoint-3", "checkpoint-4"]


def test_states_of_another_key_are_neither_used_nor_counted_nor_deleted(setting: Setting) -> None:
    foreign = setting.work(key="cd" * 32)
    foreign.save(500, {}, {})
    foreign.save(600, {}, {})
    setting.filled(1, 2, 3)
    assert setting.states() == ["checkpoint-2", "checkpoint-3", "checkpoint-500", "checkpoint-600"]
    found = setting.work().latest()
    assert found is not None
    assert found.step == 3
    assert "checkpoint-600: is the state of another stage (ppo, key cdcdcdcdcdcd)" in setting.said[0]


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


def test_a_missing_part_is_named(setting: Setting) -> None:
    setting.filled(1)
    found = setting.work().latest()
    assert found is not None
    with pytest.raises(
        IntegrityError, match=r"checkpoint-1/state.json: the saved state misses 'kl_controller'"
    ):
        found.state["kl_controller"]
    with pytest.raises(
        IntegrityError, match=r"checkpoint-1/tensors.safetensors: .* misses 'optimizer/step/w'"
    ):
        found.tensors["optimizer/step/w"]
    assert found.state.get("kl_controller") is None


def test_other_versions_are_said_and_the_promise_is_dropped_for_good(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = manifests.versions()
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "versions", lambda: {**real, "torch": "1.0"})
        setting.filled(1)
    work = setting.work()
    assert work.latest() is not None
    assert not work.exact
    assert f"torch 1.0 -> {real['torch']}" in setting.said[0]
    assert len(setting.said) == 1
    work.save(2, {}, {})
    again = setting.work()
    assert again.latest() is not None
    assert not again.exact, "a state that came from other versions stays so"
    assert len(setting.said) == 1


def test_another_number_of_threads_is_said(setting: Setting) -> None:
    before = torch.get_num_threads()
    setting.filled(1)
    torch.set_num_threads(before + 1)
    try:
        work = setting.work()
        work.latest()
    finally:
        torch.set_num_threads(before)
    assert not work.exact
    told = f"(threads {before} -> {before + 1}): no longer bit-exact"
    assert setting.said == [f"the saved state was made otherwise {told}"]


def test_the_same_circumstances_are_exact(setting: Setting) -> None:
    setting.filled(1)
    work = setting.work()
    work.latest()
    assert work.exact


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


def test_the_size_is_estimated_before_the_save(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("align.artifacts.commit.check_free", lambda folder, needed: asked.append(needed))
    setting.work().save(1, {"w": torch.zeros(1000), "b": torch.zeros(10, dtype=torch.uint8)}, {"a": 1})
    assert asked == [4000 + 10 + len('{"a": 1}')]


def test_metrics_are_durable_before_the_state_that_counts_them(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = setting.work()
    work.metrics.append({"step": 1})
    synced: list[str] = []
    fsync = os.fsync

    def record(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    work.save(1, {}, {"metrics": len(work.metrics)})
    assert synced[0] == "metrics.jsonl"


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


def test_state_is_readable_json(setting: Setting) -> None:
    setting.filled(4)
    assert json.loads((setting.checkpoint(4) / "state.json").read_text()) == {"step": 4, "metrics": 0}
