"""The adaptive controller against numbers worked out by hand."""

from __future__ import annotations

import pytest

from align.training.kl_control import KLController


@pytest.mark.parametrize(
    ("kl", "want"),
    [(6.0, 0.1), (12.0, 0.1 * (1 + 0.2 * 0.5)), (0.0, 0.1 * (1 - 0.2 * 0.5)), (6.6, 0.1 * (1 + 0.1 * 0.5))],
)
def test_coefficient_moves_towards_the_target(kl: float, want: float) -> None:
    controller = KLController(0.1, target=6.0, horizon=20)
    controller.update(kl, samples=10)
    assert controller.coef == pytest.approx(want)


def test_without_a_target_it_is_fixed() -> None:
    controller = KLController(0.1, target=None, horizon=20)
    controller.update(100.0, samples=10)
    assert controller.coef == 0.1
