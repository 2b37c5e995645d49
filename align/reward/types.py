"""What passes between a stage that samples answers and whatever scores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from align.data.types import Message, TokenRow
from align.errors import DataError, NumericsError

SHOWN = 3  # rows that are named in a message


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer to a prompt, in every form that a scorer may read.

    Attributes:
        id: Of the prompt and the sample.
        prompt: The turns up to the answer.
        text: The answer without EOS.
        row: For reward models: the prompt and this one response, EOS behind it.
        ended: True where EOS was sampled.
        facts: What the prompt's row carries beside the prompt, such as the right answer.
        earned: The environment's reward, where the answer is the last turn of an episode; `prompt` then
            holds the turns before it, and so does the prompt of `row`.
    """

    id: str
    prompt: tuple[Message, ...]
    text: str
    row: TokenRow
    ended: bool
    facts: Mapping[str, Any] = field(default_factory=dict)
    earned: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the answer, EOS left out."""
        return len(self.row.responses[0].ids) - 1

    def fact(self, name: str) -> Any:
        """One of the facts.

        Raises:
            DataError: The prompt's row does not carry it.
        """
        if name not in self.facts:
            raise DataError(
                f"row {self.id}", f"its prompt carries no {name!r}", f"give prompts with the field {name!r}"
            )
        return self.facts[name]


@dataclass(frozen=True)
class Scores:
    """Scores of S answers.

    Attributes:
        values: [S] higher is better.
        parts: Name -> [S]: diagnostics, such as the score of each component.
    """

    values: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Scorer(Protocol):
    """Answers in, scores out; the scores of an answer do not depend on the others of the batch."""

    def __call__(self, answers: Sequence[Answered]) -> Scores:
        """Score S answers."""


def one_by_one(score: Callable[[Answered], float]) -> Scorer:
    """A scorer made of a function of one answer."""

    def scorer(answers: Sequence[Answered]) -> Scores:
        return Scores(torch.tensor([float(score(answer)) for answer in answers]))

    return scorer


def checked(scores: Scores, answers: Sequence[Answered], where: str) -> Scores:
    """The scores, if there is one finite number for each answer.

    Args:
        scores: What a scorer returned.
        answers: What it was given.
        where: Which scorer, for the message.

    Raises:
        NumericsError: A score is missing, too many, NaN or infinite; the first rows are named.
    """
    for name, part in {"": scores.values, **scores.parts}.items():
        said = f"{where}/{name}" if name else where
        if part.shape != (len(answers),):
            rows = _named([answer.id for answer in answers])
            what = f"scores of shape {list(part.shape)} for {len(answers)} answers ({rows})"
            raise NumericsError(said, what, "a scorer returns one number for each answer")
        bad = (~part.isfinite()).nonzero()[:, 0].tolist()
        if bad:
            what = f"the score is {float(part[bad[0]])} for {_named([answers[i].id for i in bad])}"
            raise NumericsError(said, what, "look at these answers and at what scored them")
    return scores


def _named(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return f"row{'s' if len(ids) > 1 else ''} {', '.join(ids[:SHOWN])}{more}"
