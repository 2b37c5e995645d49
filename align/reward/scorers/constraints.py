"""Constraints that a prompt sets on its answer and that a program can check, after IFEval (arXiv:2311.07911).

A prompt's row has them as `constraints`: a list of `{name: ..., and what the constraint takes}`. The ids of
the IFEval data are taken too, see `ifeval.py`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from align.config.rewards import ConstraintsReward
from align.reward.scorers import constraint_counts as counts
from align.reward.scorers import constraint_forms as forms
from align.reward.scorers.ifeval import translated
from align.reward.types import Answered, Scorer, one_by_one

AnyConstraint = Annotated[
    counts.Words
    | counts.Sentences
    | counts.Paragraphs
    | counts.KeywordFrequency
    | counts.LetterFrequency
    | counts.CapitalWords
    | counts.Placeholders
    | counts.Bullets
    | counts.Highlights
    | counts.Sections
    | forms.ParagraphStartsWith
    | forms.Keywords
    | forms.ForbiddenWords
    | forms.Json
    | forms.Title
    | forms.Lowercase
    | forms.Uppercase
    | forms.NoCommas
    | forms.Quoted
    | forms.StartsWith
    | forms.EndsWith
    | forms.Postscript
    | forms.OneOf
    | forms.TwoAnswers
    | forms.Language,
    Field(discriminator="name"),
]
_LIST: TypeAdapter[list[AnyConstraint]] = TypeAdapter(list[AnyConstraint])


def constraints_scorer(options: ConstraintsReward) -> Scorer:
    """The part of the prompt's constraints that the answer keeps, or 1 only where it keeps all."""

    def score(answer: Answered) -> float:
        kept = [holds(one, answer.text) for one in parse(answer.fact("constraints"))]
        return float(all(kept)) if options.aggregate == "min" else sum(kept) / len(kept)

    return one_by_one(score)


def holds(constraint: counts.Constraint, text: str) -> bool:
    """Whether a text keeps a constraint; an empty one keeps none."""
    return bool(text.strip()) and constraint.holds(text)


def parse(specs: Any) -> list[AnyConstraint]:
    """The constraints of a row.

    Raises:
        ValueError: Something else, in words for a message.

    Example:
        >>> parse([{"name": "words", "at_most": 9}, {"name": "en:punctuation:no_comma"}])
        [Words(name='words', at_least=None, at_most=9, exactly=None), NoCommas(name='no_commas')]
    """
    if not isinstance(specs, list) or not specs:
        raise ValueError("is no list of constraints")
    try:
        return _LIST.validate_python([translated(spec) for spec in specs])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place, *inner = first["loc"]
        name = specs[int(place)].get("name") if isinstance(specs[int(place)], dict) else specs[int(place)]
        key = ".".join(str(part) for part in inner[1:])
        said = f"{key}: {first['msg']}" if key else first["msg"]
        raise ValueError(f"constraint {place} ({name!r}): {said}") from None
