"""What sampling returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from align.data.types import Message

End = Literal["eos", "stop", "length"]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer, or an episode of several with what an environment said between them.

    Attributes:
        id: The prompt's id.
        sample: Number of the sample among those of its prompt.
        prompt: Tokens.
        ids: The answer's tokens as sampled: EOS, or those that hold the stop string, are the last of them. In
            an episode all its tokens.
        logps: Log-prob of each sampled token under the whole distribution at the sampling temperature, as
            recorded when it was sampled. What top-k, top-p, min-p and the ban of EOS leave out is part of it,
            so with them tokens are drawn from another distribution than the recorded one.
        end: How it, or the last turn, ended: by a token of EOS, by a stop string, or cut at `max_new_tokens`.
        turns: Of an episode, start and end of each of the policy's turns in `ids`; the rest was not sampled.
        heard: Of an episode, the turns as text, both sides', up to the policy's last.
        earned: Of an episode, the environment's reward.
    """

    id: str
    sample: int
    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    logps: tuple[float, ...]
    end: End
    turns: tuple[tuple[int, int], ...] = ()
    heard: tuple[Message, ...] = ()
    earned: float | None = None

    @property
    def sampled(self) -> tuple[bool, ...]:
        """One for each of `ids`: True where the policy chose the token, False where it was told."""
        if not self.turns:
            return (True,) * len(self.ids)
        own = {i for start, end in self.turns for i in range(start, end)}
        return tuple(i in own for i in range(len(self.ids)))

    @property
    def start(self) -> int:
        """Where the answer, in an episode the policy's last turn, begins in `ids`."""
        return self.turns[-1][0] if self.turns else 0

    @property
    def ended(self) -> bool:
        """True where the answer ended by itself; False where it was cut."""
        return self.end != "length"

    def text_ids(self, eos: int) -> tuple[int, ...]:
        """The answer's tokens without EOS; `Ends.text` leaves out a stop string too."""
        return self.ids[:-1] if self.ids and self.ids[-1] == eos else self.ids
