"""Environments: what replies to a policy's turns and says what the episode was worth. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from align.data.types import Prompt
from align.registry import Registry
from align.rollout.calculator import Calculator


class Environment(Protocol):
    """The other side of one episode. It is made anew for each, without arguments.

    What it says and its reward depend on the prompt and the policy's turns alone: no clock, no dice of its
    own. Else a run that was killed does not end as it would have.
    """

    def reset(self, prompt: Prompt) -> None:
        """Begin.

        Args:
            prompt: What the policy is asked, with the facts of its row.
        """

    def step(self, text: str) -> str | None:
        """Hear a turn of the policy, and reply; None where the episode is over.

        The turn is heard even where no reply fits in any more: it was cut, or is the last of `max_turns`.
        """

    def reward(self) -> float:
        """What the episode was worth, asked once behind its last turn; higher is better."""


ENVIRONMENTS: Registry[Callable[[], Environment]] = Registry("environment")
ENVIRONMENTS.register("calculator")(Calculator)
