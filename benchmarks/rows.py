"""Token rows as they travel to the workers; nothing here knows Align, so that any environment reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A prompt with its K answers.

    Attributes:
        id: Name of the row.
        prompt: Tokens.
        answers: K sequences of tokens, each ending in EOS.
        weights: Loss weight of each token of each answer, 0 or 1.
        tiers: K integers, 0 is best; empty where the row is no ranking.
    """

    id: str
    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    tiers: tuple[int, ...] = ()

    @property
    def unique(self) -> int:
        """Real tokens when the prompt stands once."""
        return len(self.prompt) + sum(map(len, self.answers))

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest answer."""
        return len(self.prompt) + max(map(len, self.answers))

    @property
    def scored(self) -> int:
        """Answer tokens that enter a likelihood."""
        return sum(weight > 0 for answer in self.weights for weight in answer)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(better, worse) places of the answers that differ in tier."""
        places = range(len(self.tiers))
        return [(i, j) for i in places for j in places if self.tiers[i] < self.tiers[j]]

    def whole(self, k: int) -> list[int]:
        """The prompt with answer k."""
        return [*self.prompt, *self.answers[k]]


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as JSON has them."""
    return [asdict(row) for row in rows]


def from_json(rows: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows that `to_json` was given."""
    return [
        Row(
            row["id"],
            tuple(row["prompt"]),
            tuple(map(tuple, row["answers"])),
            tuple(map(tuple, row["weights"])),
            tuple(row["tiers"]),
        )
        for row in rows
    ]


def batches(rows: Sequence[Row], size: int, count: int, grouped: bool = False) -> list[list[Row]]:
    """What each timed run trains on: `count` lists of `size` rows, from the start again where rows run out.

    Args:
        rows: All rows, in a random order.
        size: Rows of a run.
        count: Runs.
        grouped: Rows of similar length together, the best that grouping by length can reach: the rows are
            sorted, cut, and the parts taken in the order in which `rows` names their first row.

    Raises:
        ValueError: Fewer rows than one run needs.
    """
    if len(rows) < size:
        raise ValueError(f"{len(rows)} rows are fewer than the {size} of one run")
    places = list(range(len(rows)))
    if grouped:
        places.sort(key=lambda i: (rows[i].longest, i))
        whole = len(places) - len(places) % size
        parts = [places[i : i + size] for i in range(0, whole, size)]
        places = [i for part in sorted(parts, key=min) for i in part]
    return [[rows[places[(n * size + i) % len(places)]] for i in range(size)] for n in range(count)]
