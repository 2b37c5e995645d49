"""Answers with their scores, by prompt, and how they are kept on disk until the next state is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from align.data.types import Message, TokenRow
from align.reward.types import Scores
from align.rollout.types import Rollout


@dataclass(frozen=True)
class Group:
    """The answers to one prompt.

    Attributes:
        prompt: The row.
        rollouts: K answers.
        scores: Theirs.
    """

    prompt: TokenRow
    rollouts: Sequence[Rollout]
    scores: Scores

    @property
    def equal(self) -> bool:
        """True where all answers score alike, so that comparing them teaches nothing."""
        return bool((self.scores.values == self.scores.values[0]).all())


@dataclass(frozen=True)
class Sampled:
    """The answers of a round, and how many prompts they have used up.

    Attributes:
        prompts: P rows.
        rollouts: S = P K answers, those of a prompt together.
        scores: Of the S answers, raw, with what they are made of.
        position: Prompts drawn since the stage began.
    """

    prompts: list[TokenRow]
    rollouts: list[Rollout]
    scores: Scores
    position: int

    @classmethod
    def of(cls, groups: Sequence[Group], position: int) -> Sampled:
        """The groups in their order."""
        parts = groups[0].scores.parts
        scores = Scores(
            torch.cat([group.scores.values for group in groups]),
            {name: torch.cat([group.scores.parts[name] for group in groups]) for name in parts},
        )
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        return cls([group.prompt for group in groups], rollouts, scores, position)

    def state(self) -> dict[str, Any]:
        """As JSON, which gives every number back bit for bit."""
        return {
            "prompts": [[p.id, list(p.prompt), p.source] for p in self.prompts],
            "rollouts": [_plain(r) for r in self.rollouts],
            "scores": self.scores.values.tolist(),
            "parts": {name: part.tolist() for name, part in self.scores.parts.items()},
            "position": self.position,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], size: int) -> Sampled:
        """What `state` was made of; `size` answers stand to each prompt."""
        prompts = [TokenRow(name, tuple(ids), (), source=source) for name, ids, source in state["prompts"]]
        owners = [(p, k) for p in prompts for k in range(size)]
        rollouts = [_rollout(p, k, found) for (p, k), found in zip(owners, state["rollouts"], strict=True)]
        parts = {name: torch.tensor(part) for name, part in state["parts"].items()}
        return cls(prompts, rollouts, Scores(torch.tensor(state["scores"]), parts), state["position"])


def _plain(rollout: Rollout) -> dict[str, Any]:
    """All but the prompt, which stands once for its answers."""
    return {
        "ids": list(rollout.ids),
        "logps": list(rollout.logps),
        "end": rollout.end,
        "turns": [[start, end] for start, end in rollout.turns],
        "heard": [[turn.role, turn.content] for turn in rollout.heard],
        "earned": rollout.earned,
    }


def _rollout(prompt: TokenRow, sample: int, found: Mapping[str, Any]) -> Rollout:
    return Rollout(
        prompt.id,
        sample,
        prompt.prompt,
        tuple(found["ids"]),
        tuple(found["logps"]),
        found["end"],
        tuple((start, end) for start, end in found["turns"]),
        tuple(Message(role, text) for role, text in found["heard"]),
        found["earned"],
    )


def groups_of(
    prompts: Sequence[TokenRow], rollouts: Sequence[Rollout], scores: Scores, size: int
) -> list[Group]:
    """S scored answers by prompt, `size` to each."""
    found = []
    for i, prompt in enumerate(prompts):
        part = slice(i * size, (i + 1) * size)
        parts = {name: values[part] for name, values in scores.parts.items()}
        found.append(Group(prompt, rollouts[part], Scores(scores.values[part], parts)))
    return found
