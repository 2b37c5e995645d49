"""Whatever happens to a committed folder is seen, and the file is named with both hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.artifacts.commit import commit
from align.artifacts.manifest import verify
from align.errors import IntegrityError, ResourceError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with commit(tmp_path / "a", kind="policy", key="k" * 64, info={"steps": 3}) as out:
        (out / "one.safetensors").write_bytes(b"first" * 100)
        (out / "two.safetensors").write_bytes(b"other" * 100)
        (out / "sub").mkdir()
        (out / "sub" / "x.json").write_text("{}")
    return tmp_path / "a"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(folder: Path) -> None:
    one, two = folder / "one.safetensors", folder / "two.safetensors"
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b), two.write_bytes(a)


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (lambda f: flip(f / "one.safetensors"), "one.safetensors: changed"),
    "truncated": (lambda f: (f / "one.safetensors").write_bytes(b"first" * 99), "one.safetensors: changed"),
    "zero-filled": (lambda f: (f / "two.safetensors").write_bytes(bytes(500)), "two.safetensors: changed"),
    "swapped shards": (swap, "one.safetensors: changed"),
    "missing": (lambda f: (f / "sub" / "x.json").unlink(), "sub/x.json: missing"),
    "extra": (lambda f: (f / "sub" / "y.json").write_text("{}"), "sub/y.json: extra"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_every_harm_is_named_with_both_hashes(folder: Path, harm: str) -> None:
    verify(folder)
    act, message = HARMS[harm]
    was = {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*.*")
    }
    act(folder)
    with pytest.raises(IntegrityError) as caught:
        verify(folder)
    assert message in str(caught.value)
    assert caught.value.exit_code == 3
    name = Path(caught.value.where).relative_to(folder).as_posix()
    if harm != "extra":
        assert was[name] in str(caught.value)
    if harm != "missing":
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() in str(caught.value)


def test_a_shallow_look_compares_sizes_only(folder: Path) -> None:
    swap(folder)
    verify(folder, deep=False)
    (folder / "one.safetensors").write_bytes(b"short")
    with pytest.raises(IntegrityError, match="one.safetensors: changed: 5 bytes"):
        verify(folder, deep=False)


def test_without_manifest_the_folder_was_never_committed(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match="manifest.json: missing: the folder was never committed"):
        verify(folder)


BROKEN = ["", "{", "[]", "null", '"x"', "{}", '{"sha256": "x"}', "\x00" * 100, "[" * 100_000]
BROKEN.append('{"sha256": "x", "schema": 1, "a": NaN}')


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_manifest_is_one_line(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(IntegrityError, match="manifest.json"):
        verify(folder)


def test_a_changed_manifest_is_seen(folder: Path) -> None:
    fields = json.loads((folder / "manifest.json").read_text())
    fields["info"]["steps"] = 4
    (folder / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(IntegrityError, match="its SHA-256 is"):
        verify(folder)


def test_another_schema_is_refused_with_the_range(folder: Path) -> None:
    text = (folder / "manifest.json").read_text().replace('"schema": 1', '"schema": 2')
    (folder / "manifest.json").write_text(text)
    with pytest.raises(IntegrityError, match="has schema 2; this version reads 1"):
        verify(folder)


def test_a_link_in_place_of_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "one.safetensors").rename(tmp_path / "moved")
    (folder / "one.safetensors").symlink_to(tmp_path / "moved")
    with pytest.raises(IntegrityError, match="one.safetensors: is a link"):
        verify(folder)


def test_a_file_that_may_not_be_read_is_a_matter_of_rights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(folder / "one.safetensors"))

    monkeypatch.setattr(hashlib, "file_digest", refuse)
    with pytest.raises(ResourceError, match="one.safetensors: Permission denied"):
        verify(folder)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_flipped_bit_anywhere_is_seen(folder: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(p for p in folder.rglob("*") if p.is_file())))
    content = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(changed)
    try:
        with pytest.raises(IntegrityError):
            verify(folder)
    finally:
        path.write_bytes(content)
    verify(folder)
