"""What sampling returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

End = Literal["eos", "stop", "length"]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer.

    Attributes:
        id: The prompt's id.
        sample: Number of the sample among those of its prompt.
        prompt: Tokens.
        ids: The answer's tokens as sampled: EOS, or those that hold the stop string, are the last of them.
        logps: Log-prob of each token under the whole distribution at the sampling temperature, as recorded
            when it was sampled. What top-k, top-p, min-p and the ban of EOS leave out is part of it, so with
            them tokens are drawn from another distribution than the recorded one.
        end: How it ended: by a token of EOS, by a stop string, or cut at `max_new_tokens`.
    """

    id: str
    sample: int
    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    logps: tuple[float, ...]
    end: End

    @property
    def ended(self) -> bool:
        """True where the answer ended by itself; False where it was cut."""
        return self.end != "length"

    def text_ids(self, eos: int) -> tuple[int, ...]:
        """The answer's tokens without EOS; `Ends.text` leaves out a stop string too."""
        return self.ids[:-1] if self.ids and self.ids[-1] == eos else self.ids
