"""Answers while they are sampled, and what chooses their next tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.config.base import SamplingOptions
from align.data.types import TokenRow
from align.rollout.ends import Ends
from align.rollout.sampling import choose, uniforms
from align.rollout.types import End, Rollout


class Answer:
    """One sample of one prompt, from its first token to its end.

    Attributes:
        prompt: A row whose `prompt` is used.
        sample: Its number among those of the prompt.
        ids: Tokens so far.
        logps: Their log-probs.
        end: How it ended; None while it grows.
    """

    def __init__(self, prompt: TokenRow, sample: int) -> None:
        self.prompt, self.sample = prompt, sample
        self.draws: list[float] = []
        self.ids: list[int] = []
        self.logps: list[float] = []
        self.end: End | None = None

    def start(self, seed: int, count: int) -> None:
        """Begin, or begin anew, with the draws of at most `count` tokens."""
        self.draws = uniforms(seed, self.prompt.id, self.sample, count).tolist()
        self.ids, self.logps, self.end = [], [], None

    def rollout(self) -> Rollout:
        """The finished answer."""
        assert self.end is not None, "it still grows"
        ids, logps = tuple(self.ids), tuple(self.logps)
        return Rollout(self.prompt.id, self.sample, self.prompt.prompt, ids, logps, self.end)


class Sampler:
    """Lets answers grow by one token at a time."""

    def __init__(self, sampling: SamplingOptions, ends: Ends, seed: int) -> None:
        self.sampling, self.ends, self.seed = sampling, ends, seed

    def start(self, answer: Answer) -> None:
        """Begin an answer."""
        answer.start(self.seed, self.sampling.max_new_tokens)

    def grow(self, answers: Sequence[Answer], logits: Tensor) -> list[int]:
        """Choose and record the next token of each answer, and end those that it ends.

        Args:
            answers: S answers.
            logits: [S, V]; overwritten.

        Returns:
            S tokens.
        """
        device = logits.device
        u = torch.tensor([a.draws[len(a.ids)] for a in answers], device=device)
        found, logps = choose(logits.float(), u, self.sampling, self._banned(answers, device))
        tokens: list[int] = found.tolist()
        for answer, token, logp in zip(answers, tokens, logps.tolist(), strict=True):
            answer.ids.append(token)
            answer.logps.append(logp)
            answer.end = self.ends.reached(answer.ids, self.sampling.min_new_tokens)
            if answer.end is None and len(answer.ids) == self.sampling.max_new_tokens:
                answer.end = "length"
        return tokens

    def _banned(self, answers: Sequence[Answer], device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Answers that are too short yet to end, and EOS."""
        short = [i for i, a in enumerate(answers) if len(a.ids) < self.sampling.min_new_tokens]
        if not short:
            return None
        return torch.tensor(short, device=device), torch.tensor(self.ends.eos, device=device)
