"""A tiny base model, built once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.config.schema import TinyModel
from align.models.sources import materialise


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama with three layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGN_CACHE", str(tmp_path_factory.mktemp("cache")))
        return materialise(TinyModel(kind="tiny", hidden=32, layers=3, heads=4))
