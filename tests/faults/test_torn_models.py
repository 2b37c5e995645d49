"""Torn base models, in a folder of the user's or in the cache: one line, or healed; never other weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.config.schema import PathModel, TinyModel
from align.errors import AlignError
from align.models import sources

pytestmark = pytest.mark.fault


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole tiny model, as it lies in the cache."""
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    return sources.materialise(TinyModel(kind="tiny"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b""),
        ("config.json", b'{"hidden_size": 3'),
        ("config.json", b"[]"),
        ("config.json", b'{"a": "\xe9"}'),
        ("model.safetensors.index.json", b'{"weight_map": {'),
        ("model.safetensors.index.json", b"{}"),
    ],
)
def test_a_folder_with_a_torn_file_gets_one_line(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(AlignError) as error:
        sources.materialise(PathModel(kind="path", path=str(folder)))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_flipped_bit_in_the_cache_is_seen(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    weights.write_bytes(flipped)
    assert (sources.materialise(TinyModel(kind="tiny")) / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_gone_from_the_cache_is_made_again(name: str, folder: Path) -> None:
    (folder / name).unlink()
    assert (sources.materialise(TinyModel(kind="tiny")) / name).is_file()


def test_a_torn_config_in_the_cache_is_made_again(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    config = sources.materialise(TinyModel(kind="tiny")) / "config.json"
    assert json.loads(config.read_text())["model_type"] == "llama"
