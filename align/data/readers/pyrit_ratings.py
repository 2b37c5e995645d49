"""Human harm ratings of PyRIT: CSV files of prompt, answer and one to three scores from 0 to 1, higher is worse."""

from __future__ import annotations

from collections.abc import Iterable

from align.data.readers.base import READERS, Context, Record, Rows, csv_rows
from align.data.sources import Blob
from align.data.types import Conversation, Message, Prompt, Ranking
from align.errors import DataError

SCORES = ("human_score", "human_score_1", "human_score_2", "human_score_3")


@READERS.register("pyrit_ratings")
def read(blobs: Iterable[Blob], context: Context) -> Rows:
    """Ratings as conversations, rankings or prompts.

    Options:
        max_rating: For conversations: the highest mean rating of an answer that is kept (0.1).
        per_prompt: For conversations: answers of one prompt (2).

    An answer that was rated in several files is one answer with all its ratings.
    """
    rated: dict[str, dict[str, list[float]]] = {}
    for blob in blobs:
        for prompt, answer, scores in context.rows(csv_rows(blob), _row):
            rated.setdefault(prompt, {}).setdefault(answer, []).extend(scores)
    for number, (prompt, answers) in enumerate(rated.items(), start=1):
        means = {answer: sum(scores) / len(scores) for answer, scores in answers.items()}
        yield from _views(f"{context.name}/{number}", prompt, means, context)


def _row(record: Record) -> tuple[str, str, list[float]]:
    scores = []
    for name in SCORES:
        raw = record.data.get(name) or ""
        if not raw.strip():
            continue
        try:
            score = float(raw)
        except ValueError:
            raise record.error(name, f"is {raw!r}, not a number", "give 0 to 1") from None
        if not 0 <= score <= 1:
            raise record.error(name, f"is {raw}", "give 0 to 1")
        scores.append(score)
    if not scores:
        raise record.error("human_score", "is missing", "give at least one score")
    return record.text("objective").strip(), record.text("assistant_response").strip(), scores


def _views(name: str, prompt: str, means: dict[str, float], context: Context) -> Rows:
    asked = (Message("user", prompt),)
    if context.kind == "prompts":
        yield Prompt(name, asked, context.name)
    elif context.kind == "conversations":
        limit, most = context.options.get("max_rating", 0.1), context.options.get("per_prompt", 2)
        safe = [answer for answer, mean in means.items() if mean <= limit][:most]
        for i, answer in enumerate(safe):
            yield Conversation(f"{name}.{i}", (*asked, Message("assistant", answer)), context.name)
    elif context.kind == "rankings":
        levels = sorted(set(means.values()))
        if len(levels) > 1:
            tiers = tuple(levels.index(mean) for mean in means.values())
            ratings = tuple(-mean for mean in means.values())
            yield Ranking(name, asked, tuple(means), tiers, ratings, context.name)
    else:
        raise DataError(context.name, f"pyrit_ratings gives no {context.kind}", "use conversations, rankings or prompts")
