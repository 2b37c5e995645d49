"""Artifacts are found by key, verified, and never silently replaced."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from align.artifacts.commit import commit
from align.artifacts.store import Store

KEY, OTHER = "0123456789ab" + "c" * 52, "f" * 64


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "artifacts", said.append)


def make(store: Store, kind: str = "policy", key: str = KEY, stage: str = "sft") -> None:
    with commit(store.path(kind, key), kind=kind, key=key, stage=stage) as out:
        (out / "x").write_text(stage)


def test_found_by_kind_and_key(store: Store) -> None:
    assert store.find("policy", KEY) is None
    make(store)
    found = store.find("policy", KEY)
    assert found is not None
    assert found.path == store.root / "policy-0123456789ab"
    assert (found.kind, found.key, found.stage) == ("policy", KEY, "sft")
    assert store.find("reward", KEY) is None
    assert store.find("policy", OTHER) is None


def test_a_broken_one_is_set_aside_with_a_line(store: Store, said: list[str]) -> None:
    make(store)
    (store.path("policy", KEY) / "x").write_text("y")
    assert store.find("policy", KEY, look_only=True) is None
    assert store.path("policy", KEY).exists()
    assert "a broken artifact is not used" in said[0]
    assert store.find("policy", KEY) is None
    assert (store.root / "policy-0123456789ab.broken-1" / "x").read_text() == "y"
    assert "set aside as policy-0123456789ab.broken-1" in said[1]
    assert "policy-0123456789ab/x: changed" in said[1]
    assert store.all() == []


def test_one_flipped_byte_of_the_same_size_is_seen(store: Store, said: list[str]) -> None:
    make(store)
    (store.path("policy", KEY) / "x").write_text("sfT")
    assert store.find("policy", KEY) is None
    assert "policy-0123456789ab/x: changed: 3 bytes" in said[0]


def test_each_broken_one_is_kept_under_a_number_of_its_own(store: Store) -> None:
    for text in ("one", "two", "six"):
        make(store)
        (store.path("policy", KEY) / "x").write_text(text)
        assert store.find("policy", KEY) is None
    kept = {path.name: (path / "x").read_text() for path in store.root.iterdir()}
    assert kept == {f"policy-0123456789ab.broken-{n}": t for n, t in ((1, "one"), (2, "two"), (3, "six"))}


def test_a_state_under_another_steps_name_is_skipped(store: Store, said: list[str]) -> None:
    work = store.work("policy", KEY, stage="sft")
    for step in (2, 4):
        work.save(step, {"w": torch.full((2,), float(step))}, {})
    shutil.copytree(work.folder / "checkpoint-2", work.folder / "checkpoint-6")
    found = work.latest()
    assert found is not None
    assert (found.step, found.tensors["w"].tolist()) == (4, [4.0, 4.0])
    assert "a broken saved state is skipped, step 4 is used" in said[0]


def test_two_runs_that_find_the_same_broken_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make(store)
    (store.path("policy", KEY) / "x").write_text("y")

    def beaten(path: Path) -> Path:
        path.rename(path.with_name("taken"))
        raise FileNotFoundError(path)

    monkeypatch.setattr("align.artifacts.store.set_aside", beaten)
    assert store.find("policy", KEY) is None


def test_keys_that_begin_alike_are_told_apart(store: Store, said: list[str]) -> None:
    make(store)
    assert store.find("policy", KEY[:12] + "d" * 52) is None
    assert "holds policy" in said[0]


def test_all_and_by_stage_list_what_is_committed(store: Store) -> None:
    assert store.all() == []
    make(store)
    make(store, key=OTHER)
    make(store, kind="reward", stage="rm")
    store.work("policy", "a" * 64).save(1, {}, {})
    (store.root / ".policy-0123456789ab.tmp-x").mkdir()
    (store.root / "policy-aaaaaaaaaaaa").mkdir()
    assert [(a.kind, a.stage) for a in store.all()] == [
        ("policy", "sft"),
        ("policy", "sft"),
        ("reward", "rm"),
    ]
    assert [a.key for a in store.by_stage("sft", "policy")] == [KEY, OTHER]
    assert store.by_stage("rm", "policy") == []


def test_a_moved_store_and_a_relative_folder_work(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(store)
    shutil.move(store.root, tmp_path / "elsewhere" / "artifacts")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Store(Path("artifacts")).find("policy", KEY) is not None


def test_a_read_only_artifact_can_be_read(store: Store) -> None:
    make(store)
    folder = store.path("policy", KEY)
    for path in [*folder.iterdir(), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert store.find("policy", KEY) is not None
    finally:
        folder.chmod(0o755)


def test_work_folders_and_what_is_half_done(store: Store) -> None:
    work = store.work("policy", KEY, stage="ppo", ingredients={"lr": 0.1})
    assert work.folder == store.root / "policy-0123456789ab.work"
    assert not work.folder.exists()
    assert store.half_done("ppo", "policy") == []
    for step in (2, 10):
        work.save(step, {}, {})
    store.work("policy", OTHER, stage="dpo").save(3, {}, {})
    ((found, folder),) = store.half_done("ppo", "policy")
    assert folder == work.folder
    assert (found.key, found.info["step"], found.ingredients) == (KEY, 10, {"lr": 0.1})
    assert store.half_done("ppo", "reward") == []
