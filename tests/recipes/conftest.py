"""The smoke chain, run once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from align.artifacts.store import Artifact, Store
from align.run import main


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a finished `recipe=smoke`."""
    folder = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGN_CACHE", str(folder / "cache"))
        assert main(["recipe=smoke", f"runs={folder / 'runs'}"]) == 0
        yield folder / "runs"


@pytest.fixture
def stages(runs: Path) -> dict[str, Artifact]:
    """Stage -> artifact."""
    return {artifact.stage: artifact for artifact in Store(runs / "artifacts").all()}
