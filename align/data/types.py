"""The rows that data sets are made of, before and after tokenising."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `weight` scales the loss of an assistant turn (0 leaves it out)."""

    role: Role
    content: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: turns up to and including the user's last one.

    Attributes:
        facts: What the row carries beside the prompt for whoever scores answers: `answer`, `constraints`,
            `tests`, `schema`.
    """

    id: str
    messages: tuple[Message, ...]
    source: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns to imitate; every assistant turn with a weight above 0 is trained on.

    A single assistant turn is plain text, which answers nothing. `weight` scales the loss of the whole row,
    and `facts` are those of its prompt.
    """

    id: str
    messages: tuple[Message, ...]
    source: str = ""
    weight: float = 1.0
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Ranking:
    """K answers to one prompt in ordered tiers. A pair is a ranking with K = 2, a rated answer has K = 1.

    Attributes:
        answers: K texts.
        tiers: K integers, 0 is best; equal integers are ties.
        ratings: K numbers, higher is better, where people gave numbers; else empty.
    """

    id: str
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    tiers: tuple[int, ...]
    ratings: tuple[float, ...] = ()
    source: str = ""

    def best_and_worst(self) -> tuple[str, str]:
        """First answer of the best tier and last answer of the worst."""
        best = self.answers[self.tiers.index(min(self.tiers))]
        worst = max(range(len(self.tiers)), key=lambda i: (self.tiers[i], i))
        return best, self.answers[worst]


@dataclass(frozen=True, slots=True)
class Labelled:
    """One answer to a prompt that somebody called desirable or undesirable: an unpaired preference."""

    id: str
    prompt: tuple[Message, ...]
    answer: str
    desirable: bool
    source: str = ""


@dataclass(frozen=True, slots=True)
class Stepwise:
    """An answer in steps, each of them judged.

    Attributes:
        steps: N texts.
        labels: N numbers, higher is better; 1 and 0 for right and wrong.
    """

    id: str
    prompt: tuple[Message, ...]
    steps: tuple[str, ...]
    labels: tuple[float, ...]
    source: str = ""


Row = TypeVar("Row", Prompt, Conversation, Ranking, Labelled, Stepwise)


@dataclass(slots=True)
class Dataset(Generic[Row]):
    """Rows of one or several sources with what was dropped on the way.

    Attributes:
        name: Names of the cards or files, joined by `+`.
        rows: The rows, in a fixed order.
        dropped: Reason -> number of rows dropped.
    """

    name: str
    rows: list[Row]
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


@dataclass(frozen=True, slots=True)
class Response:
    """Tokens that follow a prompt; `weights[i]` is the loss weight of predicting `ids[i]` (0: context)."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A prompt and its K responses as token ids: what a `TokenBatch` is packed from.

    Attributes:
        tiers: K integers, 0 is best; empty where the row is no ranking.
        ratings: K numbers, higher is better; may be empty.
        places: Of a ranking, which of the answers in the text row these are.
        desirable: What the one answer of an unpaired preference was called; None for all other rows.
        step_labels: Of an answer in steps, one number for each scored token.
        weight: Of the row's loss among others.
        ends: Whether its responses end in EOS; a window of a longer text may not.
    """

    id: str
    prompt: tuple[int, ...]
    responses: tuple[Response, ...]
    tiers: tuple[int, ...] = ()
    ratings: tuple[float, ...] = ()
    places: tuple[int, ...] = ()
    desirable: bool | None = None
    step_labels: tuple[float, ...] = ()
    source: str = ""
    weight: float = 1.0
    ends: bool = True

    @property
    def unique(self) -> int:
        """Real tokens when the prompt stands once."""
        return len(self.prompt) + sum(len(response.ids) for response in self.responses)
