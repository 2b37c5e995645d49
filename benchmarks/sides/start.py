"""The start of every run, the same on all sides: the checkpoint's weights, and what is new drawn by name."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn


@torch.no_grad()
def restore(model: nn.Module, folder: Path) -> None:
    """Put what learns back to where it started.

    Weights of the checkpoint are read from its files again, so that no second copy stands in memory; under an
    adapter they never changed. A new tensor (half of an adapter, a score head) depends on its name alone.

    Args:
        model: A plain model, or peft's wrapper around it.
        folder: The checkpoint.
    """
    learns = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in learns.keys() & set(tensors.keys()):
                learns.pop(name).copy_(tensors.get_tensor(name))
    for name, p in learns.items():
        p.copy_(_new(name, p))
    model.zero_grad(set_to_none=True)


def _new(name: str, p: nn.Parameter) -> torch.Tensor:
    if ".lora_B." in name:
        return torch.zeros_like(p)
    if ".lora_A." in name or "score." in name:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        return torch.randn(p.shape, generator=generator) / math.sqrt(p.shape[-1] + 1)
    raise ValueError(f"{name} is neither in the checkpoint nor known to be new")
