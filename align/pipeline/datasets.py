"""Data that another stage of the recipe makes: `data: {stage: <name>}` becomes the file of its artifact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.artifacts.store import ROWS, Artifact
from align.config.base import DataRef, StageOptions
from align.pipeline.ingredients import data_fields


def made_by(options: StageOptions) -> list[str]:
    """Stages whose rows these options read."""
    named = [ref for field in data_fields(options) for ref in _refs(getattr(options, field))]
    return list(
        dict.fromkeys(ref.stage for ref in named if isinstance(ref, DataRef) and ref.stage is not None)
    )


def located(options: StageOptions, artifacts: Mapping[str, Artifact]) -> StageOptions:
    """The options with the files of these artifacts in the place of the stages that made them."""

    def place(ref: Any) -> Any:
        if not isinstance(ref, DataRef) or ref.stage is None:
            return ref
        return ref.model_copy(update={"path": str(artifacts[ref.stage].path / ROWS)})

    update = {}
    for field in data_fields(options):
        value = getattr(options, field)
        update[field] = [place(ref) for ref in value] if isinstance(value, list) else place(value)
    return options.model_copy(update=update)


def _refs(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
