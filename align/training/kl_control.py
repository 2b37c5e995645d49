"""Controllers of the KL coefficient (arXiv:1909.08593, section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class KLController:
    """Fixed, or adaptive towards a target.

        e = clip(KL / target - 1, -0.2, 0.2);  coef <- coef * (1 + e * n / horizon)

    Attributes:
        coef: The coefficient now.
        target: Nats per answer; None keeps the coefficient fixed.
        horizon: Samples over which it adapts.
    """

    coef: float
    target: float | None
    horizon: int

    def update(self, kl: float, samples: int) -> None:
        """Adapt after a round.

        Args:
            kl: Mean KL of the round's answers, nats.
            samples: Number of answers in the round.

        Example:
            >>> controller = KLController(0.1, target=6.0, horizon=100)
            >>> controller.update(kl=12.0, samples=10)
            >>> round(controller.coef, 6)
            0.102
        """
        if self.target is None:
            return
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        self.coef *= 1.0 + error * samples / self.horizon
