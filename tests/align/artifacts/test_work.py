"""Saved states: exact, retained by what verifies, and never silently replaced by a fresh start."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from saved_states import Setting

from align.artifacts import manifest as manifests
from align.errors import IntegrityError, NumericsError


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


def test_state_is_readable_json(setting: Setting) -> None:
    setting.filled(4)
    assert json.loads((setting.checkpoint(4) / "state.json").read_text()) == {"step": 4, "metrics": 0}
