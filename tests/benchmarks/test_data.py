from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import data
from benchmarks.data import Checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGN_CACHE", str(tmp_path_factory.mktemp("cache")))
        return Checkpoint("tiny")


def test_the_small_model_has_some_million_parameters() -> None:
    """6 layers of four 256 x 256 and three 256 x 512 matrices."""
    layers = 6 * (4 * 256 * 256 + 3 * 256 * 512)
    assert (data.SMALL.layers, data.SMALL.hidden) == (6, 256)
    assert 3e6 < layers < 5e6


def test_a_checkpoint_knows_its_sizes(tiny: Checkpoint) -> None:
    """2 layers of 32: four 32 x 32 and three 32 x 64 matrices each."""
    assert tiny.sizes.blocks == 2 * (4 * 32 * 32 + 3 * 32 * 64)
    assert tiny.sizes.head == 32 * len(tiny.tokens.tokenizer)
    assert tiny.pad != tiny.tokens.eos_id


@pytest.mark.shared
def test_rows_are_what_the_sides_expect(tiny: Checkpoint, shared: Path) -> None:
    assert shared == data.SHARED
    eos = tiny.tokens.eos_id
    for kind, answers, pairs in (("conversations", 1, 0), ("pairs", 2, 1), ("rankings", 4, 6)):
        rows = tiny.rows(kind)
        assert len(rows) >= 8
        assert {(len(row.answers), len(row.pairs)) for row in rows} == {(answers, pairs)}, kind
        assert {ids[-1] for row in rows for ids in row.answers} == {eos}
        assert all(len(row.prompt) <= 512 for row in rows)
        assert all(0 < len(ids) <= 512 for row in rows for ids in row.answers)
        assert tiny.rows(kind) == rows, "the order is always the same"
        if kind == "pairs":
            assert {row.tiers for row in rows} == {(0, 1)}, "the better answer stands first"
