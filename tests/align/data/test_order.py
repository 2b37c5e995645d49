"""The order of rows."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from align.data.order import epoch_order


@given(st.integers(0, 2**63), st.integers(0, 10_000), st.integers(0, 200))
def test_it_is_a_permutation_and_a_pure_function(seed: int, epoch: int, count: int) -> None:
    order = epoch_order(seed, epoch, count)
    assert sorted(order) == list(range(count))
    assert epoch_order(seed, epoch, count) == order


def test_seed_epoch_and_count_all_matter() -> None:
    orders = {tuple(epoch_order(s, e, 50)) for s in range(4) for e in range(4)}
    assert len(orders) == 16
    assert epoch_order(0, 0, 51)[:5] != epoch_order(0, 0, 50)[:5]


def philox(key: int, count: int) -> list[int]:
    """Philox4x64-10 in plain integers, as published (doi:10.1145/2063384.2063405)."""
    mask, out = 2**64 - 1, []
    for block in range(1, count // 4 + 2):
        c, k = [block, 0, 0, 0], [key & mask, key >> 64]
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [(b >> 64) ^ c[1] ^ k[0], b & mask, (a >> 64) ^ c[3] ^ k[1], a & mask]
            k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
        out += c
    return out[:count]


def test_it_sorts_the_published_generator_and_so_never_changes() -> None:
    digest = hashlib.sha256(b"3:1:9").digest()
    keys = philox(int.from_bytes(digest[:16], "little"), 9)
    assert epoch_order(3, 1, 9) == sorted(range(9), key=lambda i: keys[i])


def test_places_are_even() -> None:
    first = np.bincount([epoch_order(seed, 0, 5)[0] for seed in range(2000)], minlength=5)
    assert first.min() > 330  # 400 each, standard deviation 18
    assert first.max() < 470
