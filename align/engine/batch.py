"""TokenBatch: the one batch that every stage, loss and rollout uses.

Shape legend: S sequences, N flat tokens, C scored positions, K responses per prompt, V vocabulary, D hidden
size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from align.data.types import TokenRow


@dataclass(frozen=True)
class TokenBatch:
    """A flat stream of unique real tokens: a prompt with its K responses is one trie, its prompt stands once.

    A sequence is a prompt followed by one of its responses. Position C of the scored positions says: the
    hidden state at index `scored_at[c]` of sequence `scored_in[c]` predicts the token `targets[c]`, with loss
    weight `weights[c]`.

    Attributes:
        ids: [N] tokens.
        spans: [S, 4] start and end of the prompt, start and end of the response, in the stream.
        rows: [S] index of the row (prompt) that each sequence belongs to.
        scored_in: [C] sequence.
        scored_at: [C] index within the sequence, that of the token before the target.
        targets: [C] tokens.
        weights: [C] loss weights, above 0.
        names: ids of the rows, for messages.
    """

    ids: Tensor
    spans: Tensor
    rows: Tensor
    scored_in: Tensor
    scored_at: Tensor
    targets: Tensor
    weights: Tensor
    names: tuple[str, ...]

    @property
    def sequences(self) -> int:
        """S."""
        return self.spans.shape[0]

    @property
    def lengths(self) -> Tensor:
        """[S] real tokens of each sequence, prompt and response."""
        return (self.spans[:, 1] - self.spans[:, 0]) + (self.spans[:, 3] - self.spans[:, 2])


def pack(rows: Sequence[TokenRow], *, score_all: bool = False) -> TokenBatch:
    """Lay rows out as one stream.

    Args:
        rows: Prompts with their responses; a response holds at least one token, a prompt too.
        score_all: Score every response token with weight 1 instead of those with a weight above 0.

    Returns:
        The batch; scored positions are ordered by sequence, then by position.
    """
    ids: list[int] = []
    spans: list[tuple[int, int, int, int]] = []
    row_of: list[int] = []
    scored: list[tuple[int, int, int, float]] = []
    for number, row in enumerate(rows):
        start = len(ids)
        ids.extend(row.prompt)
        prompt_end = len(ids)
        for response in row.responses:
            first = len(ids)
            ids.extend(response.ids)
            sequence = len(spans)
            spans.append((start, prompt_end, first, len(ids)))
            row_of.append(number)
            weights = [1.0] * len(response.ids) if score_all else response.weights
            before = len(row.prompt) - 1
            scored.extend(
                (sequence, before + i, token, weight)
                for i, (token, weight) in enumerate(zip(response.ids, weights, strict=True))
                if weight > 0
            )
    columns: list[list[int]] = [[item[j] for item in scored] for j in range(3)]  # type: ignore[misc]
    return TokenBatch(
        ids=torch.tensor(ids, dtype=torch.long),
        spans=torch.tensor(spans, dtype=torch.long).view(-1, 4),
        rows=torch.tensor(row_of, dtype=torch.long),
        scored_in=torch.tensor(columns[0], dtype=torch.long),
        scored_at=torch.tensor(columns[1], dtype=torch.long),
        targets=torch.tensor(columns[2], dtype=torch.long),
        weights=torch.tensor([item[3] for item in scored], dtype=torch.float32),
        names=tuple(row.id for row in rows),
    )


AUTO = 2048  # tokens: products of that many rows run at full speed on a CPU, and the activations stay small


@dataclass(frozen=True)
class Budget:
    """How much goes into one forward; it cuts batches and changes no result.

    Attributes:
        tokens: At most so many, unless a single row has more.
        padded: Count the rectangle that the padded forward fills, instead of the unique tokens of the stream.
        virtual: Tokens that the model puts before each prompt.
    """

    tokens: int
    padded: bool = False
    virtual: int = 0

    def halved(self) -> Budget:
        """Half of it, for the same work in less memory."""
        return replace(self, tokens=max(1, self.tokens // 2))


def cut(rows: Sequence[TokenRow], budget: Budget) -> list[list[int]]:
    """Group rows into micro-batches within the budget.

    A row is never cut: its responses may be compared with one another. A row above the budget stands alone.

    Returns:
        Lists of indices into `rows`; every index once.
    """
    return _cut_padded(rows, budget) if budget.padded else _cut_flat(rows, budget)


def _cut_flat(rows: Sequence[TokenRow], budget: Budget) -> list[list[int]]:
    """As few groups as hold the rows, about equally full: the longest row first, each into the emptiest."""
    sizes = [row.unique + budget.virtual for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (-sizes[i], i))
    for count in range(max(1, -(-sum(sizes) // budget.tokens)), len(rows) + 1):
        groups: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for i in order:
            emptiest = filled.index(min(filled))
            groups[emptiest].append(i)
            filled[emptiest] += sizes[i]
        if all(load <= budget.tokens or len(group) == 1 for load, group in zip(filled, groups, strict=True)):
            return [group for group in groups if group]
    return [[i] for i in order]


def _cut_padded(rows: Sequence[TokenRow], budget: Budget) -> list[list[int]]:
    """Similar lengths together, so that little is padded."""
    longest = [budget.virtual + len(row.prompt) + max(len(r.ids) for r in row.responses) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (-longest[i], i))
    groups: list[list[int]] = []
    sequences = 0
    for i in order:
        more = len(rows[i].responses)
        # The first row of a group is its longest, so it sets the padded length.
        if groups and longest[groups[-1][0]] * (sequences + more) <= budget.tokens:
            groups[-1].append(i)
            sequences += more
        else:
            groups.append([i])
            sequences = more
    return groups


def microbatches(
    rows: Sequence[TokenRow], budget: Budget, *, score_all: bool = False
) -> Iterator[tuple[list[int], TokenBatch]]:
    """The rows as packed micro-batches with the indices of their rows."""
    for group in cut(rows, budget):
        yield group, pack([rows[i] for i in group], score_all=score_all)


@torch.no_grad()
def by_row(rows: Sequence[TokenRow], budget: Budget, read: Callable[[TokenBatch], Tensor]) -> list[Tensor]:
    """For each row [K] numbers of its answers.

    Args:
        rows: Prompts with K responses.
        budget: Of a micro-batch.
        read: [S] numbers of a batch's sequences, such as scores, or log-probs under a policy as it stands.
    """
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for group, batch in microbatches(rows, budget):
        parts = read(batch).split([len(rows[i].responses) for i in group])
        for i, part in zip(group, parts, strict=True):
            found[i] = part
    return found
