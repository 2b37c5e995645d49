"""Prompts that one stage measures on and another one trains on.

Whether a prompt is held out is decided by its text and by the split of its card, so views of one source, and
sources that share a split, cannot leak; only where the cards of a recipe split differently is there anything
to compare. Leaks within the data of one stage are refused where they are read, in `align.data.cards`.
"""

from __future__ import annotations

from align.config.base import Data, StageOptions
from align.config.schema import Recipe
from align.config.stages import EvaluateOptions
from align.data import cards
from align.errors import DataError
from align.pipeline.ingredients import data_fields, without_stages

SHOWN = 50  # characters of a prompt in a message


def leaks(recipe: Recipe) -> list[DataError]:
    """One error for each stage that trains on prompts of an evaluation.

    Raises:
        DataError: Data that cannot be read.
    """
    uses = [data for options in recipe.stages.values() for _, data in _uses(options)]
    if len(set().union(*(cards.splits(data) for data in uses))) < 2:
        return []
    found = []
    for measuring, options in recipe.stages.items():
        if not isinstance(options, EvaluateOptions):
            continue
        held_out = cards.openings(options.prompts, "test")
        for training, other in recipe.stages.items():
            trained = [cards.openings(data, "train") for field, data in _uses(other) if _learns(other, field)]
            both = sorted(held_out.intersection(set().union(*trained)))
            if both:
                first = f"{both[0][:SHOWN]!r}..."
                what = f"{measuring} measures on {len(both)} prompts that {training} trains on: {first}"
                fix = "give their cards one split (test and salt), or leave a source out"
                found.append(DataError(f"stages.{measuring}.prompts", what, fix))
    return found


def _uses(options: StageOptions) -> list[tuple[str, Data]]:
    """Option -> data, without rows of stages: their prompts are those that the stage was given."""
    found: list[tuple[str, Data]] = []
    for field in data_fields(options):
        named = without_stages(getattr(options, field))
        if named:
            found.append((field, named))
    return found


def _learns(options: StageOptions, field: str) -> bool:
    """Everything is learned from but the prompts of an evaluation; its judge learns too."""
    return not (isinstance(options, EvaluateOptions) and field == "prompts")
