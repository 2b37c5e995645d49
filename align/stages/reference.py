"""Log-probs under a frozen reference, computed once for all stages that need the same ones.

A sweep over beta, or over losses, asks the same reference about the same tokens each time. What is kept lies
in the cache, committed like an artifact, under a key of everything it depends on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from align.artifacts import manifest as manifests
from align.artifacts.commit import commit
from align.artifacts.store import Artifact
from align.config.schema import LoraAdapter, NoAdapter, quantization_of
from align.data.packages import cache_folder
from align.data.types import TokenRow
from align.errors import IntegrityError
from align.models import sources
from align.stages.base import StageContext

FORMAT = 2  # raise when what is computed changes
WEIGHTS = (".safetensors", "config.json")
ADDS_ZEROS = ("default", "gaussian")  # starts of LoRA
KIND, FILE = "reference_logps", "logps.safetensors"


def cached_logps(
    ctx: StageContext[Any],
    start: Artifact | Path,
    rows: Sequence[TokenRow],
    compute: Callable[[], dict[str, Tensor]],
    *,
    how: Sequence[Any] = (),
) -> dict[str, Tensor]:
    """Row id -> [K] log-probs of its responses under the policy that a stage starts from.

    Args:
        ctx: Of the stage.
        start: The policy: an artifact, or the base model's folder.
        rows: The rows; their ids differ.
        compute: Called where nothing is kept yet, or what is kept is torn.
        how: What else the numbers depend on, as JSON.
    """
    key = _key(ctx, start, rows, how)
    folder = cache_folder() / KIND / key[:24]
    kept = _read(folder, key)
    if kept is None:
        found = compute()
        kept = torch.cat([found[row.id] for row in rows])
        with commit(folder, kind=KIND, key=key) as out:
            save_file({"logps": kept}, out / FILE)
    else:
        ctx.reporter.note("log-probs under the reference are taken from the cache")
    parts = kept.split([len(row.responses) for row in rows])
    return {row.id: part for row, part in zip(rows, parts, strict=True)}


def _read(folder: Path, key: str) -> Tensor | None:
    if not folder.is_dir():
        return None
    try:
        found = manifests.verify(folder)
    except IntegrityError:
        return None
    return load_file(folder / FILE)["logps"] if (found.kind, found.key) == (KIND, key) else None


def _key(ctx: StageContext[Any], start: Artifact | Path, rows: Sequence[TokenRow], how: Sequence[Any]) -> str:
    """SHA-256 of the reference's weights, the libraries that compute, and every token with its weight.

    The template is part of the tokens.
    """
    digest = hashlib.sha256()
    files = {} if isinstance(start, Path) else start.manifest.files
    weights = {name: file.sha256 for name, file in files.items() if name.endswith(WEIGHTS)}
    head = [
        FORMAT,
        sources.identity(ctx.recipe.model),
        ctx.dtype,
        sorted(weights.items()),
        manifests.versions(),
        [*how, *_rounding(ctx, start)],
    ]
    digest.update(json.dumps(head, sort_keys=True).encode())
    for row in rows:
        parts = [row.prompt, [(response.ids, response.weights) for response in row.responses]]
        digest.update(json.dumps(parts).encode())
    return digest.hexdigest()


def _rounding(ctx: StageContext[Any], start: Artifact | Path) -> list[Any]:
    """What the numbers depend on by rounding alone, which the step-0 check would see.

    A fresh adapter leaves the base as it is, exactly so only where it adds products with zeros in float32.
    """
    adapter, rounded = ctx.recipe.adapter, quantization_of(ctx.recipe.adapter)
    zeros = isinstance(adapter, LoraAdapter) and adapter.kind == "lora" and adapter.init in ADDS_ZEROS
    exact = isinstance(adapter, NoAdapter) or (zeros and ctx.dtype == "float32")
    fresh = [adapter.model_dump(), ctx.seed] if isinstance(start, Path) and not exact else []
    return [rounded, *fresh] if rounded else fresh
