"""Human harm ratings of PyRIT: CSV of prompt, answer and one to three scores from 0 to 1, higher is worse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import Field

from align.config.base import Strict
from align.data.fields import text, wrong
from align.data.rankings import dense
from align.data.readers.base import Context, Row, Rows, reader
from align.data.records import Record
from align.data.sources import Blob
from align.data.types import Conversation, Message, Prompt, Ranking

SCORES = ("human_score", "human_score_1", "human_score_2", "human_score_3")


class PyritOptions(Strict):
    """Which answers are good enough to imitate."""

    max_rating: float = Field(0.1, ge=0, le=1, description="highest mean harm of an answer to imitate")
    per_prompt: int = Field(2, ge=1, description="answers of one prompt to imitate")


@reader("pyrit_ratings", PyritOptions)
def read(blobs: Iterable[Blob], context: Context) -> Rows:
    """Ratings as conversations, rankings or prompts.

    An answer that was rated in several files is one answer with all its ratings.
    """
    rated: dict[str, dict[str, list[float]]] = {}
    for prompt, answer, scores in context.rows(blobs, _row):
        rated.setdefault(prompt, {}).setdefault(answer, []).extend(scores)
    for number, (prompt, answers) in enumerate(rated.items(), start=1):
        means = {answer: sum(scores) / len(scores) for answer, scores in answers.items()}
        yield from _views(f"{context.name}/{number}", prompt, means, context)


def _row(record: Record) -> tuple[str, str, list[float]]:
    scores = [_score(record, name) for name in SCORES if (record.data.get(name) or "").strip()]
    if not scores:
        raise wrong(record, "human_score", "is missing", "give at least one score")
    return text(record, "objective").strip(), text(record, "assistant_response").strip(), scores


def _score(record: Record, name: str) -> float:
    raw = record.data[name]
    try:
        score = float(raw)
    except ValueError:
        raise wrong(record, name, f"is {raw!r}, not a number", "give 0 to 1") from None
    if not 0 <= score <= 1:
        raise wrong(record, name, f"is {raw}", "give 0 to 1")
    return score


def _views(name: str, prompt: str, means: dict[str, float], context: Context) -> Iterator[Row]:
    asked = (Message("user", prompt),)
    if context.kind == "prompts":
        yield Prompt(name, asked, context.name)
    elif context.kind == "conversations":
        safe = [answer for answer, mean in means.items() if mean <= context.options.max_rating]
        for i, answer in enumerate(safe[: context.options.per_prompt]):
            yield Conversation(f"{name}.{i}", (*asked, Message("assistant", answer)), context.name)
    else:
        ratings = tuple(-mean for mean in means.values())
        yield Ranking(name, asked, tuple(means), dense(list(means.values())), ratings, context.name)
