"""From rows of text to rows of tokens, with what was cut and dropped counted and limited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from align.data.template import ChatTemplate
from align.data.types import Conversation, Dataset, Prompt, Ranking, Response, TokenRow
from align.errors import DataError


@dataclass
class Tokenised:
    """Token rows with what happened on the way.

    Attributes:
        rows: The rows that are left.
        dropped: Reason -> rows that were dropped.
        cut: What was shortened -> how many.
        lengths: Tokens of each row (the longest answer) before anything was cut, for messages.
    """

    name: str
    rows: list[TokenRow] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """One line per thing that was cut or dropped."""
        counts = [*self.cut.items(), *self.dropped.items()]
        return [f"{self.name}: {what}: {count} of {len(self.lengths)} rows" for what, count in counts if count]

    def check(self, max_drop: float) -> None:
        """Refuse where too much was lost.

        Raises:
            DataError: More than `max_drop` of the rows were dropped, or none are left.
        """
        lost, total = sum(self.dropped.values()), len(self.lengths)
        if total == 0 or (lost <= max_drop * total and self.rows):
            return
        reasons = ", ".join(f"{count} {why}" for why, count in self.dropped.most_common())
        ordered = sorted(self.lengths)
        p50, p99 = ordered[total // 2], ordered[min(total - 1, int(0.99 * total))]
        raise DataError(
            self.name,
            f"{lost} of {total} rows were dropped ({reasons}), more than max_drop {max_drop:g}",
            f"mend them or raise max_drop; tokens per row: median {p50}, 99 % {p99}, longest {ordered[-1]}",
        )


def conversations(
    data: Dataset[Conversation], template: ChatTemplate, *, max_prompt: int, max_answer: int, max_drop: float
) -> Tokenised:
    """Rows to imitate: the prompt is what stands before the first trained token.

    A cut answer keeps EOS as its last token, but that EOS is not trained: a model must not learn to stop in the middle
    of a sentence.
    """
    out = Tokenised(data.name)
    for row in data:
        ids, weights = template.encode_conversation(row.messages)
        out.lengths.append(len(ids))
        start = next((i for i, w in enumerate(weights) if w > 0), None)
        if not start:
            out.dropped["without a token to train on"] += 1
            continue
        answer, answer_weights = ids[start:], weights[start:]
        if len(answer) > max_answer:
            answer, answer_weights = _cut_answer(answer, answer_weights, max_answer, template.eos_id, out)
        prompt = _cut_prompt(ids[:start], max_prompt, out)
        out.rows.append(TokenRow(row.id, prompt, (Response(tuple(answer), tuple(answer_weights)),), source=row.source))
    out.check(max_drop)
    return out


def rankings(
    data: Dataset[Ranking], template: ChatTemplate, *, max_prompt: int, max_answer: int, max_drop: float
) -> Tokenised:
    """Rankings: every token of an answer is scored; answers that became equal are dropped with their order."""
    out = Tokenised(data.name)
    for row in data:
        prompt = template.encode_prompt(row.prompt)
        answers = [template.encode_answer(text) for text in row.answers]
        out.lengths.append(len(prompt) + max(map(len, answers)))
        cut = [tuple(_cut_scored(a, max_answer, template.eos_id, out)) for a in answers]
        keep = _distinct(cut, row.tiers)
        if len(keep) < len(cut):
            out.cut["with answers that became equal, left out"] += 1
        if len({row.tiers[i] for i in keep}) < 2:
            out.dropped["left with fewer than two different tiers"] += 1
            continue
        out.rows.append(
            TokenRow(
                row.id,
                _cut_prompt(prompt, max_prompt, out),
                tuple(Response(cut[i], (1.0,) * len(cut[i])) for i in keep),
                tiers=tuple(row.tiers[i] for i in keep),
                ratings=tuple(row.ratings[i] for i in keep) if row.ratings else (),
                source=row.source,
            )
        )
    out.check(max_drop)
    return out


def prompts(data: Dataset[Prompt], template: ChatTemplate, *, max_prompt: int, max_drop: float) -> Tokenised:
    """Prompts without responses."""
    out = Tokenised(data.name)
    for row in data:
        ids = template.encode_prompt(row.messages)
        out.lengths.append(len(ids))
        out.rows.append(TokenRow(row.id, _cut_prompt(ids, max_prompt, out), (), source=row.source))
    out.check(max_drop)
    return out


def _cut_prompt(ids: Sequence[int], limit: int, out: Tokenised) -> tuple[int, ...]:
    """A long prompt loses its middle: the head opens the template, the tail asks the question and opens the answer."""
    if len(ids) <= limit:
        return tuple(ids)
    out.cut[f"prompts cut to max_prompt {limit}"] += 1
    head = limit // 2
    return (*ids[:head], *ids[len(ids) - (limit - head) :])


def _cut_answer(
    ids: list[int], weights: list[float], limit: int, eos: int, out: Tokenised
) -> tuple[list[int], list[float]]:
    out.cut[f"answers cut to max_answer {limit}; their EOS is not trained"] += 1
    return [*ids[: limit - 1], eos], [*weights[: limit - 1], 0.0]


def _cut_scored(ids: list[int], limit: int, eos: int, out: Tokenised) -> list[int]:
    if len(ids) <= limit:
        return ids
    out.cut[f"answers cut to max_answer {limit}, EOS put back"] += 1
    return [*ids[: limit - 1], eos]


def _distinct(answers: Sequence[tuple[int, ...]], tiers: Sequence[int]) -> list[int]:
    """Places to keep: of equal answers in one tier the first; of equal answers in different tiers none."""
    seen: dict[tuple[int, ...], set[int]] = {}
    for answer, tier in zip(answers, tiers, strict=True):
        seen.setdefault(answer, set()).add(tier)
    first = {answer: answers.index(answer) for answer in seen}
    return [i for i, answer in enumerate(answers) if first[answer] == i and len(seen[answer]) == 1]
