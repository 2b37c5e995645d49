"""Torn base models, in a folder of the user's or in the cache: one line, or healed; never other weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from align.config.schema import PathModel, TinyModel
from align.errors import AlignError
from align.models import sources
from align.models.policy import load_causal, load_template

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


@pytest.mark.parametrize("cut", [0, 7, 5000])
def test_torn_weights_get_one_line(folder: Path, cut: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    with pytest.raises(AlignError, match="cannot be opened: ") as error:
        load_causal(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_torn_tokenizer_gets_one_line(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(AlignError, match="tokenizer.json: no tokenizer can be read: ") as error:
        load_template(folder, None)
    assert "\n" not in str(error.value)


def test_weights_that_the_model_has_no_place_for_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(AlignError, match="no place for: model.layers.1."):
        load_causal(folder)


def test_a_foreign_tensor_is_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        {**weights, "foo": next(iter(weights.values()))[:1].clone()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(AlignError, match="no place for: foo"):
        load_causal(folder)


def test_a_pipe_in_place_of_weights_is_refused_and_not_waited_for(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(AlignError, match="model.safetensors: is neither a file nor a folder"):
        sources.identity(PathModel(kind="path", path=str(folder)))
