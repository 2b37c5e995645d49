"""What the machine can do: the fastest large matrix product, fp32, with the threads of the run."""

from __future__ import annotations

from time import perf_counter

import torch

SIZE, REPEATS = 2048, 8


def peak(size: int = SIZE, repeats: int = REPEATS) -> float:
    """FLOP/s of the best of `repeats` products of [size, size] matrices."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    out = a @ b
    best = float("inf")
    for _ in range(repeats):
        start = perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, perf_counter() - start)
    return 2 * size**3 / best
