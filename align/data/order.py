"""The order of rows: a pure function, so that a resumed run sees the same rows."""

from __future__ import annotations

import numpy as np


def epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    """A permutation of `range(count)` that depends on (seed, epoch, count) only.

    Philox is counter-based and the same on every platform.

    Example:
        >>> epoch_order(0, 0, 5) == epoch_order(0, 0, 5), sorted(epoch_order(0, 1, 5))
        (True, [0, 1, 2, 3, 4])
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)))
    return [int(i) for i in generator.permutation(count)]
