"""Which dtype a recipe gets, and what is said about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from align.models import precision
from align.models.precision import has_bf16, resolve, told


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
def test_auto_asks_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: Any, dtype: str, said: str
) -> None:
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "not there")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert resolve("auto") == dtype
    assert said in (told("auto") or "")
    assert resolve("float32") == "float32"
    assert told("float32") is None
    assert resolve("bfloat16") == "bfloat16"
    assert ("several times faster" in (told("bfloat16") or "")) == (dtype == "float32")


@pytest.mark.parametrize("flags", ["fpu avx2", "fpu avx512_bf16 avx2", "amx_bf16"])
def test_where_linux_says_what_a_cpu_has_torch_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str
) -> None:
    (tmp_path / "cpuinfo").write_text(
        f"processor : 0\nbogomips : 1\nflags\t\t: {flags}\n\nflags : amx_bf16\n"
    )
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: pytest.fail("torch was asked"))
    assert has_bf16() == ("bf16" in flags)


@pytest.mark.skipif(not precision.CPUINFO.is_file(), reason="no Linux")
def test_linux_and_torch_agree() -> None:
    there = torch.cpu.get_capabilities()
    assert has_bf16() == bool(there.get("amx_bf16") or there.get("avx512_bf16"))
