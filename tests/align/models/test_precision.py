"""Which dtype a recipe gets, and what is said about it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from align.models.precision import resolve, told


@pytest.mark.parametrize(
    ("found", "dtype", "said"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bfloat16", "in bfloat16, which this CPU has instructions"),
        (
            {"amx_bf16": False, "avx512_bf16": True},
            "bfloat16",
            "in bfloat16, which this CPU has instructions",
        ),
        ({"amx_bf16": False, "avx2": True}, "float32", "in float32: this CPU has no instructions"),
        ({}, "float32", "in float32: this CPU has no instructions"),
    ],
)
def test_auto_asks_the_cpu(monkeypatch: pytest.MonkeyPatch, found: Any, dtype: str, said: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert resolve("auto") == dtype
    assert said in (told("auto") or "")
    assert resolve("float32") == "float32"
    assert told("float32") is None
    assert resolve("bfloat16") == "bfloat16"
    assert ("several times faster" in (told("bfloat16") or "")) == (dtype == "float32")
