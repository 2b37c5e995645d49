"""Constraints that a text keeps or breaks as a whole: words, case, form, language."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from align.errors import ConfigError
from align.reward.scorers.constraint_counts import Constraint, without_empty_ends
from align.reward.scorers.json_schema import loads

SIX_STARS = "******"
_TITLE = re.compile(r"<<([^\n]+?)>>")


class ParagraphStartsWith(Constraint):
    """So many paragraphs between blank lines, of which one opens with a word."""

    name: Literal["paragraph_starts_with"]
    paragraphs: int = Field(ge=1)
    nth: int = Field(ge=1)
    word: str = Field(min_length=1)

    @model_validator(mode="after")
    def _is_one_of_them(self) -> ParagraphStartsWith:
        if self.nth > self.paragraphs:
            raise ValueError(f"nth {self.nth} is above paragraphs {self.paragraphs}")
        return self

    def holds(self, text: str) -> bool:
        """Whether it does; case, quotes before and punctuation behind the word do not count."""
        parts = re.split(r"\n\s*\n", text.strip())
        if len(parts) != self.paragraphs:
            return False
        first = parts[self.nth - 1].split()[0].strip("\"'“”‘’.,!?:;*_")
        return first.lower() == self.word.lower()


class Keywords(Constraint):
    """Each stands somewhere in the text, case aside."""

    name: Literal["keywords"]
    words: list[str] = Field(min_length=1)

    def holds(self, text: str) -> bool:
        """Whether all are there."""
        return all(word.lower() in text.lower() for word in self.words)


class ForbiddenWords(Constraint):
    """None stands in the text as a word, case aside."""

    name: Literal["forbidden_words"]
    words: list[str] = Field(min_length=1)

    def holds(self, text: str) -> bool:
        """Whether none is there."""
        return not any(
            re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in self.words
        )


class Json(Constraint):
    """The whole text is JSON; a fence of three backticks around it does not count."""

    name: Literal["json"]

    def holds(self, text: str) -> bool:
        """Whether it is."""
        try:
            loads(text)
        except ValueError:
            return False
        return True


class Title(Constraint):
    """A title in double angular brackets stands somewhere: `<<so>>`."""

    name: Literal["title"]

    def holds(self, text: str) -> bool:
        """Whether one does."""
        return any(title.strip() for title in _TITLE.findall(text))


class Lowercase(Constraint):
    """No letter is a capital."""

    name: Literal["lowercase"]

    def holds(self, text: str) -> bool:
        """Whether it is so."""
        return text.islower()


class Uppercase(Constraint):
    """All letters are capitals."""

    name: Literal["uppercase"]

    def holds(self, text: str) -> bool:
        """Whether it is so."""
        return text.isupper()


class NoCommas(Constraint):
    """There is no comma."""

    name: Literal["no_commas"]

    def holds(self, text: str) -> bool:
        """Whether it is so."""
        return "," not in text


class Quoted(Constraint):
    """The whole text stands between double quotes."""

    name: Literal["quoted"]

    def holds(self, text: str) -> bool:
        """Whether it does."""
        bare = text.strip()
        return len(bare) > 1 and bare.startswith('"') and bare.endswith('"')


class StartsWith(Constraint):
    """The text opens with a phrase, case aside."""

    name: Literal["starts_with"]
    phrase: str = Field(min_length=1)

    def holds(self, text: str) -> bool:
        """Whether it does."""
        return text.strip().lower().startswith(self.phrase.strip().lower())


class EndsWith(Constraint):
    """The text ends with a phrase, case and double quotes behind it aside."""

    name: Literal["ends_with"]
    phrase: str = Field(min_length=1)

    def holds(self, text: str) -> bool:
        """Whether it does."""
        return text.strip().strip('"').lower().endswith(self.phrase.strip().lower())


class Postscript(Constraint):
    """A marker such as `P.S.` stands somewhere; a space may follow each of its dots."""

    name: Literal["postscript"]
    marker: str = Field("P.S.", min_length=1)

    def holds(self, text: str) -> bool:
        """Whether it does."""
        pattern = re.escape(self.marker).replace(r"\.", r"\.\s?")
        return re.search(pattern, text, re.IGNORECASE) is not None


class OneOf(Constraint):
    """One of some phrases stands in the text."""

    name: Literal["one_of"]
    phrases: list[str] = Field(min_length=1)

    def holds(self, text: str) -> bool:
        """Whether one does."""
        return any(phrase in text for phrase in self.phrases)


class TwoAnswers(Constraint):
    """Two different texts parted by six stars."""

    name: Literal["two_answers"]

    def holds(self, text: str) -> bool:
        """Whether there are two."""
        parts = [part.strip() for part in without_empty_ends(text.split(SIX_STARS))]
        return len(parts) == 2 and all(parts) and parts[0] != parts[1]


class Language(Constraint):
    """The text is in a language."""

    name: Literal["language"]
    language: str = Field(pattern="^[a-z]{2}(-[a-z]{2})?$", description="ISO 639-1: en, de, hi")

    def holds(self, text: str) -> bool:
        """Whether it is; a text without letters is in none."""
        return language_of(text) == self.language


def language_of(text: str) -> str | None:
    """The language of a text by langdetect; None for a text without letters.

    Raises:
        ConfigError: langdetect is not installed.
    """
    try:
        from langdetect import DetectorFactory, LangDetectException, detect
    except ImportError:
        what = "the constraint language needs langdetect, which is not installed"
        raise ConfigError("constraints", what, "pip install 'align[rewards]'") from None
    DetectorFactory.seed = 0  # else it draws differently each time
    try:
        return str(detect(text))
    except LangDetectException:
        return None
