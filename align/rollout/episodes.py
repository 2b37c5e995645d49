"""Episodes: the policy and an environment take turns, and what the environment says is context only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from align.data.types import Message, Prompt, TokenRow
from align.errors import ConfigError
from align.rollout.ends import Ends
from align.rollout.environment import Environment
from align.rollout.types import Rollout

Turn = Callable[[Sequence[TokenRow], int], list[Rollout]]


@dataclass(frozen=True)
class Episodes:
    """How policy and environment take turns.

    Attributes:
        name: Of the environment, for messages.
        make: Gives a new environment.
        max_turns: Most turns of the policy.
        room: Most tokens that a turn is sampled behind: the prompt and all that was said since.
        encode: Tokens of a reply, from behind the EOS of a turn to where the next one starts.
        eos: Put behind a turn that a stop string ended, before the reply.
        ends: Give the text of a turn.
    """

    name: str
    make: Callable[[], Environment]
    max_turns: int
    room: int
    encode: Callable[[str], list[int]]
    eos: int
    ends: Ends

    def play(
        self, turn: Turn, prompts: Sequence[TokenRow], asked: Sequence[Prompt], samples: int
    ) -> list[Rollout]:
        """Let all episodes go on, a turn of each at a time, until the last is over.

        An episode is over when the environment says so, when a turn was cut, behind `max_turns`, or when
        the next turn would begin behind more than `room` tokens.

        Args:
            turn: Samples a turn for each of some rows, so many times each. What it draws for a row must
                depend on the row's id: that of a later turn names episode and turn.
            prompts: P rows whose `prompt` is used.
            asked: P prompts as text.
            samples: K episodes for each.

        Returns:
            P K rollouts, those of a prompt together.

        Raises:
            ConfigError: The environment returns what it may not.
        """
        starts = [prompt for prompt in asked for _ in range(samples)]
        every = [
            _Episode(self, prompt, first)
            for prompt, first in zip(starts, turn(prompts, samples), strict=True)
        ]
        going = [episode for episode in every if episode.next is not None]
        while going:
            rows = [episode.next for episode in going if episode.next is not None]
            for episode, rollout in zip(going, turn(rows, 1), strict=True):
                episode.take(rollout)
            going = [episode for episode in going if episode.next is not None]
        return [episode.rollout() for episode in every]


class _Episode:
    """One of them while it goes on.

    Attributes:
        next: The row that the policy's next turn is sampled behind; None when the episode is over.
    """

    def __init__(self, how: Episodes, asked: Prompt, first: Rollout) -> None:
        self.how, self.first, self.environment = how, first, how.make()
        self.ids: list[int] = []
        self.logps: list[float] = []
        self.turns: list[tuple[int, int]] = []
        self.heard: list[Message] = []
        self.next: TokenRow | None = None
        self.environment.reset(asked)
        self.take(first)

    def take(self, turn: Rollout) -> None:
        """Add a turn of the policy, and the reply where the policy may speak again behind it."""
        self.turns.append((len(self.ids), len(self.ids) + len(turn.ids)))
        self.ids += turn.ids
        self.logps += turn.logps
        self.end, self.next = turn.end, None
        text = self.how.ends.text(turn)
        said = self._hear(text)
        if said is None or not turn.ended or len(self.turns) == self.how.max_turns:
            return
        closed = [] if turn.end == "eos" else [self.how.eos]
        between = [*closed, *self.how.encode(said)]
        prompt = (*self.first.prompt, *self.ids, *between)
        if len(prompt) > self.how.room:
            return
        self.ids += between
        self.heard += [Message("assistant", text), Message("user", said)]
        name = f"{self.first.id}/{self.first.sample}, turn {len(self.turns) + 1}"
        self.next = TokenRow(name, prompt, ())

    def _hear(self, text: str) -> str | None:
        said: object = self.environment.step(text)
        if said is None or isinstance(said, str):
            return said
        raise ConfigError(
            f"environment {self.how.name}",
            f"step returned {type(said).__name__}, not text",
            "return text, or None where the episode is over",
        )

    def rollout(self) -> Rollout:
        """The finished episode."""
        earned: object = self.environment.reward()
        try:
            reward = float(earned)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            what = f"reward returned {type(earned).__name__}, not a number"
            raise ConfigError(f"environment {self.how.name}", what, "return a number") from None
        first = self.first
        return Rollout(
            first.id,
            first.sample,
            first.prompt,
            tuple(self.ids),
            tuple(self.logps),
            self.end,
            tuple(self.turns),
            tuple(self.heard),
            reward,
        )
