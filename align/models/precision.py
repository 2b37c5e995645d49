"""In which numbers a model computes: decided from the recipe and from what the device can do.

In bfloat16 the weights that do not learn are held in it and matrix products run in it. What learns is kept in
float32 all the same: adapters and their heads as peft does, and of a model that is trained whole a float32
copy that the optimizer steps (`training.masters`), since a small step is lost in the rounding of bfloat16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from align.config.schema import Dtype

INSTRUCTIONS = {
    "amx_bf16",
    "avx512_bf16",
}  # as Linux and torch name them; else bfloat16 is emulated, and slow
CPUINFO = Path("/proc/cpuinfo")


def resolve(option: Literal["auto"] | Dtype) -> Dtype:
    """The dtype that an option stands for on this machine; models run on its CPU."""
    if option != "auto":
        return option
    return "bfloat16" if has_bf16() else "float32"


def has_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16."""
    return not INSTRUCTIONS.isdisjoint(_instructions())


def _instructions() -> set[str]:
    """What the CPU has; a plan of a finished run asks, and where Linux says it, need not import torch."""
    try:
        said = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        said = ""
    flags = next((line for line in said.splitlines() if line.startswith("flags")), None)
    if flags is not None:
        return set(flags.split())
    import torch

    return {name for name, there in torch.cpu.get_capabilities().items() if there}


def told(option: Literal["auto"] | Dtype) -> str | None:
    """What a person should know of the choice; None where it is float32 because they said so."""
    if option == "float32":
        return None
    if resolve(option) == "float32":
        return "computes in float32: this CPU has no instructions for bfloat16"
    if has_bf16():
        return "computes in bfloat16, which this CPU has instructions for; what learns is kept in float32"
    return "computes in bfloat16, which this CPU has no instructions for: float32 is several times faster"
