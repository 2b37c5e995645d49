"""Log-probs under a reference are computed once, and again where anything they depend on differs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from align.artifacts import manifest
from align.artifacts.commit import commit
from align.artifacts.manifest import verify
from align.artifacts.store import Artifact
from align.config.schema import Ia3Adapter, LoraAdapter, NoAdapter, TinyModel
from align.data.types import Response, TokenRow
from align.stages.reference import cached_logps

ROWS = [
    TokenRow("a", (5, 6), (Response((7, 2), (1.0, 1.0)), Response((8, 2), (1.0, 1.0)))),
    TokenRow("b", (9,), (Response((2,), (1.0,)),)),
]


class Asked:
    """A context, and how often the log-probs were computed with it."""

    def __init__(self) -> None:
        self.computed, self.notes = 0, []  # type: ignore[var-annotated]
        model = TinyModel(kind="tiny")
        reporter = SimpleNamespace(note=self.notes.append)
        recipe = SimpleNamespace(model=model, adapter=NoAdapter(kind="none"))
        self.ctx: Any = SimpleNamespace(name="dpo", recipe=recipe, seed=0, reporter=reporter, dtype="float32")

    def __call__(self, start: Artifact | Path, rows: list[TokenRow]) -> dict[str, Tensor]:
        """Ask; a row's log-probs are the negative lengths of its prompt and responses."""

        def compute() -> dict[str, Tensor]:
            self.computed += 1
            return {
                r.id: -torch.tensor([float(len(r.prompt) + 10 * len(x.ids)) for x in r.responses])
                for r in rows
            }

        return cached_logps(self.ctx, start, rows, compute)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    return Asked()


def artifact(folder: Path, weights: bytes, metrics: str = "", config: str = "{}") -> Artifact:
    with commit(folder, kind="policy", key=folder.name) as out:
        (out / "adapter_model.safetensors").write_bytes(weights)
        (out / "adapter_config.json").write_text(config)
        (out / "metrics.jsonl").write_text(metrics)
    return Artifact(folder, verify(folder))


def test_the_second_stage_takes_them_from_the_cache(asked: Asked, tmp_path: Path) -> None:
    first = asked(tmp_path, ROWS)
    assert {name: part.tolist() for name, part in first.items()} == {"a": [-22.0, -22.0], "b": [-11.0]}
    turned = [replace(ROWS[0], id="z"), ROWS[1]]
    second = asked(tmp_path, turned)
    assert asked.computed == 1, "what a row is called does not matter"
    assert {name: part.tolist() for name, part in second.items()} == {"z": [-22.0, -22.0], "b": [-11.0]}
    assert asked.notes == ["log-probs under the reference are taken from the cache"]


@pytest.mark.parametrize(
    "rows",
    [
        [ROWS[0]],
        [ROWS[1], ROWS[0]],
        [replace(ROWS[0], prompt=(5, 7)), ROWS[1]],
        [ROWS[0], replace(ROWS[1], responses=(Response((3,), (1.0,)),))],
        [ROWS[0], replace(ROWS[1], responses=(Response((2,), (0.5,)),))],
    ],
)
def test_other_tokens_are_computed(asked: Asked, tmp_path: Path, rows: list[TokenRow]) -> None:
    asked(tmp_path, ROWS)
    asked(tmp_path, rows)
    assert asked.computed == 2


def test_other_weights_are_computed_and_other_notes_are_not(asked: Asked, tmp_path: Path) -> None:
    asked(artifact(tmp_path / "one", b"1"), ROWS)
    asked(artifact(tmp_path / "two", b"1", "x"), ROWS)
    assert asked.computed == 1
    asked(artifact(tmp_path / "three", b"2"), ROWS)
    asked(tmp_path, ROWS)
    assert asked.computed == 3
    asked.ctx.recipe.model = TinyModel(kind="tiny", seed=1)
    asked(tmp_path, ROWS)
    assert asked.computed == 4
    asked.ctx.dtype = "bfloat16"
    asked(tmp_path, ROWS)
    assert asked.computed == 5


def test_another_config_and_other_libraries_are_computed(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter's config scales its weights."""
    one = artifact(tmp_path / "one", b"1", config='{"lora_alpha": 8}')
    asked(one, ROWS)
    asked(artifact(tmp_path / "two", b"1", config='{"lora_alpha": 16}'), ROWS)
    assert asked.computed == 2
    monkeypatch.setattr(manifest, "versions", lambda: {"torch": "0"})
    asked(one, ROWS)
    assert asked.computed == 3


def test_what_lies_under_another_key_is_not_taken(asked: Asked, tmp_path: Path) -> None:
    """As where a folder was copied by hand."""
    asked(tmp_path, ROWS[1:])
    (kept,) = (tmp_path / "cache" / "reference_logps").iterdir()
    kept.rename(tmp_path / "kept")
    other = [replace(ROWS[1], prompt=(9, 9))]
    asked(tmp_path, other)
    (place,) = (tmp_path / "cache" / "reference_logps").iterdir()
    shutil.rmtree(place)
    (tmp_path / "kept").rename(place)
    assert asked(tmp_path, other)["b"].tolist() == [-12.0]
    assert asked.computed == 3


LORA = LoraAdapter(kind="lora")
DORA = LoraAdapter(kind="dora")


@pytest.mark.parametrize(
    ("adapter", "dtype", "shared"),
    [
        (LORA, "float32", True),
        (LoraAdapter(kind="lora", init="gaussian"), "float32", True),
        (LoraAdapter(kind="lora", init="pissa"), "float32", False),
        (LoraAdapter(kind="lora", init="olora"), "float32", False),
        (LoraAdapter(kind="lora", init="orthogonal"), "float32", False),
        (DORA, "float32", False),
        (Ia3Adapter(kind="ia3"), "float32", False),
        (LORA, "bfloat16", False),
        (DORA, "bfloat16", False),
    ],
)
def test_an_adapter_that_is_not_exactly_the_base_rounds_in_its_own_way(
    asked: Asked, tmp_path: Path, adapter: LoraAdapter | Ia3Adapter, dtype: str, shared: bool
) -> None:
    one = artifact(tmp_path / "one", b"1")
    asked.ctx.dtype = dtype
    asked(tmp_path, ROWS)
    asked(one, ROWS)
    assert asked.computed == 2
    asked.ctx.recipe.adapter = adapter
    asked(one, ROWS)  # an artifact lies on the original base, however it came to be
    assert asked.computed == 2
    for seed, computed in ((0, 1), (1, 2), (1, 2)):
        asked.ctx.seed = seed
        asked(tmp_path, ROWS)
        assert asked.computed == 2 + (0 if shared else computed)


def test_without_an_adapter_the_seed_does_not_matter(asked: Asked, tmp_path: Path) -> None:
    asked.ctx.dtype = "bfloat16"
    asked(tmp_path, ROWS)
    asked.ctx.recipe.adapter, asked.ctx.seed = NoAdapter(kind="none", freeze=["*embed*"]), 1
    asked(tmp_path, ROWS)
    assert asked.computed == 1


def test_what_is_torn_is_computed_again(asked: Asked, tmp_path: Path) -> None:
    asked(tmp_path, ROWS)
    (file,) = tmp_path.rglob("logps.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    assert asked(tmp_path, ROWS)["b"].tolist() == [-11.0]
    assert asked.computed == 2
    asked(tmp_path, ROWS)
    assert asked.computed == 2


def test_what_else_they_depend_on_counts(asked: Asked, tmp_path: Path) -> None:
    def ask(*how: object) -> None:
        cached_logps(asked.ctx, tmp_path, ROWS[1:], lambda: {"b": torch.zeros(1)}, how=how)

    ask(None)
    ask(0.5)
    assert len(list((tmp_path / "cache").rglob("logps.safetensors"))) == 2


def test_a_base_in_4_bits_is_another_reference(asked: Asked, tmp_path: Path) -> None:
    asked.ctx.recipe.adapter = LORA
    one = artifact(tmp_path / "one", b"1")
    for start in (tmp_path, one):
        asked(start, ROWS)
    assert asked.computed == 2
    asked.ctx.recipe.adapter = LORA.model_copy(update={"quantize_base": "nf4"})
    for start in (tmp_path, one, tmp_path, one):
        asked(start, ROWS)
    assert asked.computed == 4
