"""Constraints on how many there are of something in a text."""

from __future__ import annotations

import re
from typing import Literal

import regex
from pydantic import Field, model_validator

from align.config.base import Strict

STARS = re.compile(r"\s?\*\*\*\s?")
ABBREVIATIONS = frozenset(
    ["mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "jr.", "sr.", "vs.", "etc.", "e.g.", "i.e.", "no."]
)
_SENTENCE = regex.compile(r"(?<=[.!?…][\"')\]”’]*)\s+")
_BULLET = re.compile(r"^[ \t]*(?:\*(?!\*)|-(?!-))[ \t]*\S", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*\*([^\n*]+)\*\*|\*([^\n*]+)\*")


class Constraint(Strict):
    """Something that a text keeps or breaks."""

    name: str

    def holds(self, text: str) -> bool:
        """Whether the text, which is not empty, keeps it."""
        raise NotImplementedError


class Count(Constraint):
    """How many there are of something: `at_least`, `at_most`, both of them, or `exactly`."""

    at_least: int | None = Field(None, ge=0)
    at_most: int | None = Field(None, ge=0)
    exactly: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _bounds_make_sense(self) -> Count:
        bounds = (self.at_least, self.at_most)
        if self.exactly is None and bounds == (None, None):
            raise ValueError("give at_least, at_most or exactly")
        if self.exactly is not None and bounds != (None, None):
            raise ValueError("exactly leaves no room for at_least or at_most")
        if None not in bounds and bounds[0] > bounds[1]:  # type: ignore[operator]
            raise ValueError(f"at_least {bounds[0]} is above at_most {bounds[1]}")
        return self

    def holds(self, text: str) -> bool:
        """Whether so many are in the text."""
        found = self.count(text)
        if self.exactly is not None:
            return found == self.exactly
        return (self.at_least or 0) <= found and (self.at_most is None or found <= self.at_most)

    def count(self, text: str) -> int:
        """How many are in the text."""
        raise NotImplementedError


class Words(Count):
    """Runs of letters, digits and underscores."""

    name: Literal["words"]

    def count(self, text: str) -> int:
        """Words of the text."""
        return len(re.findall(r"\w+", text))


class Sentences(Count):
    """Ended by `.`, `!` or `?` before a space or the end; a last one may lack its end."""

    name: Literal["sentences"]

    def count(self, text: str) -> int:
        """Sentences of the text; the dot of a common English abbreviation ends none."""
        *inner, _ = _SENTENCE.split(text.strip())
        return 1 + sum(part.rsplit(None, 1)[-1].lower() not in ABBREVIATIONS for part in inner)


class Paragraphs(Count):
    """Parted by blank lines, or by lines of three stars."""

    name: Literal["paragraphs"]
    separator: Literal["blank_line", "stars"] = "blank_line"

    def holds(self, text: str) -> bool:
        """Whether there are so many, and none between two others is empty."""
        return all(part.strip() for part in self._parts(text)) and super().holds(text)

    def count(self, text: str) -> int:
        """Paragraphs of the text."""
        return len(self._parts(text))

    def _parts(self, text: str) -> list[str]:
        if self.separator == "blank_line":
            return re.split(r"\n\s*\n", text.strip())
        return without_empty_ends(STARS.split(text))


class KeywordFrequency(Count):
    """How often a word stands in the text, case aside."""

    name: Literal["keyword_frequency"]
    word: str = Field(min_length=1)

    def count(self, text: str) -> int:
        """Times that it stands there."""
        return text.lower().count(self.word.lower())


class LetterFrequency(Count):
    """How often a letter or sign stands in the text, case aside."""

    name: Literal["letter_frequency"]
    letter: str = Field(min_length=1, max_length=1)

    def count(self, text: str) -> int:
        """Times that it stands there."""
        return text.lower().count(self.letter.lower())


class CapitalWords(Count):
    """Words all in capitals."""

    name: Literal["capital_words"]

    def count(self, text: str) -> int:
        """Words of the text that are."""
        return sum(word.isupper() for word in re.findall(r"[\w'’-]+", text))


class Placeholders(Count):
    """Square brackets with something between them: `[address]`."""

    name: Literal["placeholders"]

    def count(self, text: str) -> int:
        """Of the text."""
        return len(re.findall(r"\[[^\[\]\n]+\]", text))


class Bullets(Count):
    """Lines that open with `*` or `-`."""

    name: Literal["bullets"]

    def count(self, text: str) -> int:
        """Of the text."""
        return len(_BULLET.findall(text))


class Highlights(Count):
    """Passages of one line between stars: `*so*` or `**so**`."""

    name: Literal["highlights"]

    def count(self, text: str) -> int:
        """Of the text."""
        return sum(bool((one or two).strip()) for one, two in _HIGHLIGHT.findall(text))


class Sections(Count):
    """Sections that open with a marker and a number: `Section 1`."""

    name: Literal["sections"]
    marker: str = Field(min_length=1)

    def count(self, text: str) -> int:
        """Of the text."""
        return len(re.findall(rf"{re.escape(self.marker)}\s?\d+", text))


def without_empty_ends(parts: list[str]) -> list[str]:
    """A separator before the first or behind the last part parts nothing."""
    if parts and not parts[0].strip():
        parts = parts[1:]
    return parts[:-1] if parts and not parts[-1].strip() else parts
