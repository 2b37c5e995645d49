"""What sampling returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer.

    Attributes:
        id: The prompt's id.
        sample: Number of the sample among those of its prompt.
        prompt: Tokens.
        ids: The answer's tokens, EOS included where it was sampled.
        logps: Log-prob of each token at the sampling temperature, as recorded when it was sampled.
        ended: True where EOS was sampled; False where `max_new_tokens` cut the answer.
    """

    id: str
    sample: int
    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    logps: tuple[float, ...]
    ended: bool

    def text_ids(self, eos: int) -> tuple[int, ...]:
        """The answer's tokens without EOS."""
        return self.ids[:-1] if self.ids and self.ids[-1] == eos else self.ids
