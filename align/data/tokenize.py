"""From rows of text to rows of tokens, with what was cut and dropped counted and limited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from align.config.stages import TrainOn
from align.data.template import ChatTemplate, step_text
from align.data.types import (
    Conversation,
    Dataset,
    Labelled,
    Message,
    Prompt,
    Ranking,
    Response,
    Stepwise,
    TokenRow,
)
from align.errors import DataError


@dataclass
class Tokenised:
    """Token rows with what happened on the way.

    Attributes:
        rows: The rows that are left.
        dropped: Reason -> rows that were dropped.
        cut: What was shortened or changed -> how many prompts or answers.
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
        rows = len(self.lengths)
        lines = [f"{self.name}: {count} {what}, in {rows} rows" for what, count in self.cut.items() if count]
        lost = [f"{self.name}: {count} of {rows} rows {why}" for why, count in self.dropped.items() if count]
        return [*lines, *lost]

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
    data: Dataset[Conversation],
    template: ChatTemplate,
    *,
    max_prompt: int,
    max_answer: int,
    max_drop: float,
    train_on: TrainOn = "assistant",
) -> Tokenised:
    """Rows to imitate: the prompt is what stands before the first trained token, the response is the rest.

    Where every token is trained on, the row may be as long as a prompt and an answer together.
    """
    out = _start(data.name, template, max_prompt)
    escaped = template.escaped
    for row in data:
        turns = _last_only(row.messages) if train_on == "last" else row.messages
        ids, weights = template.encode_conversation(turns, every=train_on == "all")
        out.lengths.append(len(ids))
        weights[0] = 0.0  # nothing stands before it to predict it from
        start = next((i for i, weight in enumerate(weights) if weight > 0), None)
        if start is None:
            out.dropped["have no token to train on"] += 1
        elif len(turns) == 1:
            out.rows += _windows(row, ids, weights, max_answer, out)
        else:
            prompt = _cut_prompt(ids[:start], max_prompt, out)
            limit, told = max_answer, f"answers cut to max_answer {max_answer}"
            if train_on == "all":
                limit, told = (
                    max_prompt + max_answer - len(prompt),
                    "conversations cut to max_prompt + max_answer",
                )
            response = _cut_answer(ids[start:], weights[start:], limit, template.eos_id, out, told)
            out.rows.append(TokenRow(row.id, prompt, (response,), source=row.source, weight=row.weight))
    return _finish(out, template.escaped - escaped, max_drop)


def _last_only(turns: Sequence[Message]) -> tuple[Message, ...]:
    """The turns, of which only the last is trained on."""
    return (*(replace(turn, weight=0.0) for turn in turns[:-1]), turns[-1])


def _windows(
    row: Conversation, ids: Sequence[int], weights: Sequence[float], size: int, out: Tokenised
) -> list[TokenRow]:
    """A plain text as rows of at most `size` scored tokens, each token of it scored once.

    In front of a window stands the token before it, of the first one BOS.
    """
    starts = range(1, len(ids), size)
    out.cut[f"plain texts cut into windows of max_answer {size}"] += len(starts) > 1
    return [
        TokenRow(
            row.id if number == 0 else f"{row.id}/{number + 1}",
            (ids[at - 1],),
            (Response(tuple(ids[at : at + size]), tuple(weights[at : at + size])),),
            source=row.source,
            weight=row.weight,
            ends=at + size >= len(ids),
        )
        for number, at in enumerate(starts)
    ]


def rankings(
    data: Dataset[Ranking],
    template: ChatTemplate,
    *,
    max_prompt: int,
    max_answer: int,
    max_drop: float,
    ordered: bool = True,
) -> Tokenised:
    """Rankings: answers that became equal are left out, with a row of which no order is left.

    With `ordered=False` a row may be left with one answer, or with equal tiers: its ratings are what is read.
    """
    fewest, why = (2, "fewer than two different tiers") if ordered else (1, "no answer")
    out = _start(data.name, template, max_prompt)
    escaped = template.escaped
    for row in data:
        prompt = template.encode_prompt(row.prompt)
        answers = [template.encode_answer(text) for text in row.answers]
        out.lengths.append(len(prompt) + max(map(len, answers)))
        told = f"answers cut to max_answer {max_answer}"
        cut = [_cut_answer(ids, [1.0] * len(ids), max_answer, template.eos_id, out, told) for ids in answers]
        keep = _distinct([response.ids for response in cut], row.tiers)
        out.cut["answers that became equal, left out"] += len(cut) - len(keep)
        if len({row.tiers[i] for i in keep}) < fewest:
            out.dropped[f"are left with {why}"] += 1
            continue
        out.rows.append(
            TokenRow(
                row.id,
                _cut_prompt(prompt, max_prompt, out),
                tuple(cut[i] for i in keep),
                tiers=tuple(row.tiers[i] for i in keep),
                ratings=tuple(row.ratings[i] for i in keep) if row.ratings else (),
                places=keep,
                source=row.source,
            )
        )
    return _finish(out, template.escaped - escaped, max_drop)


def unpaired(
    data: Dataset[Labelled], template: ChatTemplate, *, max_prompt: int, max_answer: int, max_drop: float
) -> Tokenised:
    """Single answers with what they were called."""
    out = _start(data.name, template, max_prompt)
    escaped = template.escaped
    for row in data:
        prompt, ids = template.encode_prompt(row.prompt), template.encode_answer(row.answer)
        out.lengths.append(len(prompt) + len(ids))
        told = f"answers cut to max_answer {max_answer}"
        answer = _cut_answer(ids, [1.0] * len(ids), max_answer, template.eos_id, out, told)
        asked = _cut_prompt(prompt, max_prompt, out)
        out.rows.append(TokenRow(row.id, asked, (answer,), desirable=row.desirable, source=row.source))
    return _finish(out, template.escaped - escaped, max_drop)


def stepwise(
    data: Dataset[Stepwise],
    template: ChatTemplate,
    separator: str,
    *,
    max_prompt: int,
    max_answer: int,
    max_drop: float,
) -> Tokenised:
    """Answers in steps: a long one loses its last steps, with their labels."""
    out = _start(data.name, template, max_prompt)
    escaped = template.escaped
    for row in data:
        texts = [step_text(step, separator) for step in row.steps]
        prompt, steps = template.encode_prompt(row.prompt), template.encode_steps(texts, separator)
        out.lengths.append(len(prompt) + sum(map(len, steps)) + 1)
        out.cut["steps that hold the separator, where a sampled answer would be cut"] += sum(
            separator in text for text in texts
        )
        if not all(texts):
            out.dropped["have a step that is nothing but the separator"] += 1
            continue
        kept = _fitting(steps, max_answer - 1)
        if not kept:
            out.dropped["have a first step longer than max_answer"] += 1
            continue
        out.cut[f"steps behind max_answer {max_answer}, left out"] += len(steps) - kept
        answer = step_response(steps[:kept], template.eos_id)
        row_of = TokenRow(row.id, _cut_prompt(prompt, max_prompt, out), (answer,), source=row.source)
        out.rows.append(replace(row_of, step_labels=row.labels[:kept]))
    return _finish(out, template.escaped - escaped, max_drop)


def step_response(steps: Sequence[Sequence[int]], eos: int) -> Response:
    """Steps and EOS as one response; scored is the token behind each step, as its state is that step's last.

    Example:
        >>> step_response([[5, 9], [6, 7, 9]], eos=2)
        Response(ids=(5, 9, 6, 7, 9, 2), weights=(0.0, 0.0, 1.0, 0.0, 0.0, 1.0))
    """
    ids = [token for step in steps for token in step]
    behind = set(accumulate(map(len, steps)))
    return Response((*ids, eos), tuple(float(i in behind) for i in range(len(ids) + 1)))


def _fitting(steps: Sequence[Sequence[int]], limit: int) -> int:
    """How many of the first steps have together at most `limit` tokens."""
    return sum(total <= limit for total in accumulate(map(len, steps)))


def prompts(data: Dataset[Prompt], template: ChatTemplate, *, max_prompt: int, max_drop: float) -> Tokenised:
    """Prompts without responses."""
    out = _start(data.name, template, max_prompt)
    escaped = template.escaped
    for row in data:
        ids = template.encode_prompt(row.messages)
        out.lengths.append(len(ids))
        prompt = _cut_prompt(ids, max_prompt, out)
        out.rows.append(TokenRow(row.id, prompt, (), source=row.source))
    return _finish(out, template.escaped - escaped, max_drop)


def _start(name: str, template: ChatTemplate, max_prompt: int) -> Tokenised:
    """Nothing yet, where `max_prompt` leaves room for a prompt."""
    least = 2 * (template.opening + 1)
    if max_prompt < least:
        what = (
            f"max_prompt {max_prompt} leaves no room beside the {template.opening} tokens that open an answer"
        )
        raise DataError(name, what, f"give at least {least}")
    return Tokenised(name)


def _finish(out: Tokenised, escaped: int, max_drop: float) -> Tokenised:
    out.cut["special tokens in texts, encoded as plain text"] += escaped
    out.check(max_drop)
    return out


def _cut_prompt(ids: Sequence[int], limit: int, out: Tokenised) -> tuple[int, ...]:
    """A long prompt loses its middle: its head opens the template, its tail opens the answer.

    `_start` made sure that the tail, half the limit, is longer than what opens the answer.
    """
    if len(ids) <= limit:
        return tuple(ids)
    out.cut[f"prompts cut to max_prompt {limit}"] += 1
    head = limit // 2
    return (*ids[:head], *ids[len(ids) - (limit - head) :])


def _cut_answer(
    ids: Sequence[int], weights: Sequence[float], limit: int, eos: int, out: Tokenised, told: str
) -> Response:
    """A cut answer keeps EOS as its last token, where a reward is read, but that EOS is not trained.

    A model must not learn to stop in the middle of a sentence.
    """
    if len(ids) <= limit:
        return Response(tuple(ids), tuple(weights))
    out.cut[f"{told}; EOS is put back but not trained"] += 1
    return Response((*ids[: limit - 1], eos), (*weights[: limit - 1], 0.0))


def _distinct(answers: Sequence[tuple[int, ...]], tiers: Sequence[int]) -> tuple[int, ...]:
    """Places to keep: of equal answers in one tier the first; of equal answers in different tiers none."""
    seen: dict[tuple[int, ...], set[int]] = {}
    for answer, tier in zip(answers, tiers, strict=True):
        seen.setdefault(answer, set()).add(tier)
    first = {answer: answers.index(answer) for answer in seen}
    return tuple(i for i, answer in enumerate(answers) if first[answer] == i and len(seen[answer]) == 1)
